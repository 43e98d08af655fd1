"""The episode store: a Zarr v3 array of windows, one shard an episode, and a catalog table for each version.

```
zarr.json                 root group: specification, normalisation, versions; written last
frames/zarr.json          (episode, window, frame, channel, y, x) uint16; support windows first, then query
frames/c.<id>.0.0.0.0.0   one episode
catalog/0001.parquet      the episodes of a version, those of earlier versions included
contexts/0001.parquet     the contexts that a version was drawn from
survey.npz                what the tiles look like, remembered for the next build; no part of the store's digest
```
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.archive.objects import Objects, open_objects
from core.episodes import shard
from core.episodes.bulk import for_each
from core.episodes.tables import read_table, table_bytes
from core.errors import FewcastError
from core.satellite.granule import Grid

FORMAT = 1
SPLIT_NAMES = (
    "train", "validation_region", "validation_time", "validation_both", "test_region", "test_time", "test_both",
)  # fmt: skip


@dataclass(frozen=True)
class StoreSpec:
    """What every episode of a store has in common. A value is code * scale + offset, and code 65535 is missing."""

    channels: tuple[str, ...]
    kinds: tuple[str, ...]
    units: tuple[str, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    input_frames: int
    target_frames: int
    support_windows: int
    query_windows: int
    tile_pixels: int
    margin_pixels: int
    lead_minutes: tuple[int, ...]
    compression: shard.Compression

    @property
    def block(self) -> tuple[int, int, int, int, int]:
        """An episode's shape (window, frame, channel, y, x), margins included."""
        side = self.tile_pixels + 2 * self.margin_pixels
        windows, frames = self.support_windows + self.query_windows, self.input_frames + self.target_frames
        return windows, frames, len(self.channels), side, side


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Mean and std (C,) of the training contexts of the store's first version, in the channels' units."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class EpisodeStore:
    """Reads one version of a store; all of it is immutable, so any number of readers may share it."""

    def __init__(self, url: str, version: int | None = None) -> None:
        self.url = url
        self.objects: Objects = open_objects(url)
        root = read_root(self.objects)
        if root is None:
            raise FewcastError(
                f"no episode store at {url}", found="no finished store there", mend="run `fewcast episodes` first"
            )
        self.attributes: dict[str, Any] = root
        known = [entry["version"] for entry in root["versions"]]
        self.version = known[-1] if version is None else version
        if self.version not in known:
            raise FewcastError(
                f"the episode store {url} has no version {version}",
                found=f"versions {known[0]} to {known[-1]}",
                mend="name one of those",
            )
        entry = root["versions"][known.index(self.version)]
        self.digest: str = entry["digest"]
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in root["spec"].items()}
        self.spec = StoreSpec(**values)
        self.normalisation = Normalisation(*(np.array(root["normalisation"][k]) for k in ("mean", "std")))

    @classmethod
    def open(cls, url: str, version: int | None = None) -> "EpisodeStore":
        """A store's newest version, or the one that a run has pinned; `FewcastError` if there is none."""
        return cls(url, version)

    @cached_property
    def catalog(self) -> pd.DataFrame:
        """One row an episode, indexed by position = id; see docs/episodes.md for the columns."""
        return read_table(self.objects, f"catalog/{self.version:04d}.parquet")

    @cached_property
    def contexts(self) -> pd.DataFrame:
        """One row a context that the episodes were drawn from, with its statistics."""
        return read_table(self.objects, f"contexts/{self.version:04d}.parquet")

    @cached_property
    def grid(self) -> Grid:
        """The archive's grid, in whose pixels the tiles are given; `FewcastError` where an old store has none."""
        stored = self.attributes.get("grid")
        if stored is None:
            raise FewcastError(
                f"the episode store {self.url} does not say where its tiles lie",
                found="a store of an earlier version, without a grid",
                mend="build it anew, or train without network.extra_inputs",
            )
        return Grid(np.linspace(*stored["x"]), np.linspace(*stored["y"]), stored["crs"])

    @property
    def channels(self) -> tuple[str, ...]:
        return self.spec.channels

    @property
    def units(self) -> tuple[str, ...]:
        return self.spec.units

    @property
    def lead_minutes(self) -> tuple[int, ...]:
        return self.spec.lead_minutes

    def ids(self, split: str, holdout: str | None = None) -> NDArray[np.int64]:
        """The ids of a split, of one kind of hold-out or of all."""
        catalog = self.catalog
        chosen = catalog["split"] == split
        if holdout is not None:
            chosen &= catalog["holdout"] == holdout
        return catalog.loc[chosen, "id"].to_numpy()

    def init_times(self, ids: Any) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
        """Times of the last input frames of support (E, N_S) and query (E, N_Q) windows, datetime64[ns] UTC."""
        found = []
        for name, windows in (("support_init", self.spec.support_windows), ("query_init", self.spec.query_windows)):
            rows = self.catalog[name].to_numpy()[np.asarray(ids, int)]
            times = np.array([np.asarray(row, "M8[ns]") for row in rows], "M8[ns]")
            found.append(times.reshape(len(rows), windows))
        return found[0], found[1]

    def read(self, ids: Any) -> NDArray[np.uint16]:
        """Stored codes (E, window, frame, channel, y, x); `FewcastError` names an episode that is damaged."""
        ids = [int(i) for i in ids]
        out = np.empty((len(ids), *self.spec.block), np.uint16)

        def fill(position: int) -> None:
            episode = ids[position]
            try:
                data = self.objects.get(f"frames/{shard.key(episode)}")
                if data is None:
                    raise shard.DamagedShard("it is missing")
                shard.decode(data, out[position], self.spec.compression)
            except shard.DamagedShard as error:
                raise FewcastError(
                    f"episode {episode} of {self.url} is damaged", found=str(error),
                    mend="run `fewcast episodes validate`, which names and rebuilds such shards",
                ) from error  # fmt: skip

        for_each(self.objects, fill, range(len(ids)))
        return out


def read_root(objects: Objects) -> dict[str, Any] | None:
    """The store's own attributes, or None where no build has finished."""
    data = objects.get("zarr.json")
    if data is None:
        return None
    attributes = json.loads(data).get("attributes", {})
    found: dict[str, Any] | None = attributes.get("fewcast_episodes")
    if found is None or found.get("format") != FORMAT or "shape" not in found:
        raise FewcastError(
            f"{objects.url} is not an episode store of this version",
            found="another Zarr group" if found is None else f"format {found.get('format')!r}",
            mend="give another --set episodes.store=URL",
        )
    return found


def commit(
    objects: Objects, spec: StoreSpec, attributes: dict[str, Any], catalog: pd.DataFrame, contexts: pd.DataFrame
) -> str:
    """Make a version visible after all its shards are there; returns its digest. The root is written last."""
    version = len(attributes["versions"]) + 1
    objects.put(f"catalog/{version:04d}.parquet", table_bytes(catalog))
    objects.put(f"contexts/{version:04d}.parquet", table_bytes(contexts))
    array = shard.metadata(len(catalog), spec.block, spec.compression)
    objects.put("frames/zarr.json", json.dumps(array, indent=1).encode())
    digest = store_digest(spec, attributes["normalisation"], catalog)
    entry = {"version": version, "episodes": len(catalog), "digest": digest}
    own = {**attributes, "format": FORMAT, "spec": asdict(spec), "versions": [*attributes["versions"], entry]}
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"fewcast_episodes": own},
        # Consolidated, so that a plain open never takes the tables for parts of the hierarchy.
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": {"frames": array}},
    }
    objects.put("zarr.json", json.dumps(root, indent=1).encode())
    return digest


def store_digest(spec: StoreSpec, normalisation: dict[str, Any], catalog: pd.DataFrame) -> str:
    """What pins a version: the specification, the normalisation, and every episode's place and content."""
    total = hashlib.blake2b(digest_size=16)
    total.update(json.dumps([asdict(spec), normalisation], sort_keys=True).encode())
    for row in zip(catalog["id"], catalog["split"], catalog["holdout"], catalog["digest"], strict=True):
        total.update(repr(tuple(map(str, row))).encode())
    return total.hexdigest()


def shard_digest(data: bytes | None) -> str:
    """Digest of a stored shard's bytes; empty for one that is missing."""
    return "" if data is None else hashlib.sha256(data).hexdigest()[:32]
