"""Build an episode store: resumable, reproducible, one shard an episode, and grown without changing what is there."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from core.archive.lock import exclusive
from core.archive.objects import Objects, open_objects
from core.config import EpisodesConfig
from core.episodes import shard
from core.episodes.bulk import for_each, put_soon, settle
from core.episodes.cut import cut
from core.episodes.frames import Frames
from core.episodes.leaks import leaks
from core.episodes.pictures import context_map, sheet
from core.episodes.plan import Plan, frames_digest, name_of, plan, spec_of
from core.episodes.sampler import EpisodeSpec
from core.episodes.spans import Timing
from core.episodes.store import EpisodeStore, StoreSpec, commit, read_root, shard_digest
from core.episodes.tables import rows
from core.errors import FewcastError
from core.fanout import batches, fan_out
from core.report import Report, Silent
from core.satellite.granule import UNITS, Grid

SHARDS_PER_TASK = 64
# What may change between the versions of a store that grows.
FREE = ("archive", "store")
TIMES = ("train", "validation", "test")


@dataclass(frozen=True)
class StoreSummary:
    """What a build did. `counts` are all the store's episodes by split (train, test_both, ...)."""

    url: str
    digest: str
    version: int
    counts: dict[str, int]
    windows: pd.DataFrame
    built: int
    skipped: int


def build(config: EpisodesConfig, *, report: Report | None = None, client: Any = None) -> StoreSummary:
    """Build the store of `config`, or continue it, or add a version to it if the archive offers new contexts.

    An episode is a function of its frames, the settings and the hash of (seed, context): the same bytes each time,
    on threads or on a Dask `client`. Raises `FewcastError` for settings or an archive that the store at the URL was
    not built from, and where a split has nothing to offer.
    """
    report = report or Silent()
    frames = Frames.open(config.archive, config.channels)
    objects = open_objects(config.store)
    settings = _settings(config)
    root = read_root(objects)
    if root is None:
        planned = plan(config, frames, report=report, client=client)
        catalog, known_contexts = None, None
        attributes: dict[str, Any] = {
            "archive": config.archive,
            "shape": list(frames.archive.shape),
            "grid": _grid(frames.archive.grid),
            "settings": settings,
            "timing": asdict(planned.timing),
            "normalisation": {"mean": planned.mean, "std": planned.std},
            "versions": [],
        }
    else:
        attributes = {"grid": _grid(frames.archive.grid), **root}
        _same_settings(config, settings, root["settings"])
        store = EpisodeStore(config.store)
        catalog, known_contexts = store.catalog, store.contexts
        planned = plan(config, frames, known=known_contexts, catalog=catalog, report=report, client=client)
        _same_frames(store, planned)
        if not planned.specs:
            report.message(f"{config.store}: all {len(catalog)} episodes are there already, nothing to do")
            return _summary(config, store.digest, store.version, catalog, planned, 0)
    for row in rows(planned.windows):
        report.message(f"{name_of(row.split, row.holdout)}: {row.windows} valid windows at {row.starts} starts")
    spec = _store_spec(config, frames, planned.timing)
    added = _catalog(config, frames, planned, len(attributes["versions"]) + 1)
    everything = added if catalog is None else pd.concat([catalog, added], ignore_index=True)
    found = leaks(everything)
    assert not found or catalog is not None, f"the sampler leaks: {found[0]}"
    if found:
        raise FewcastError(
            f"new episodes of {config.store} would leak into its earlier ones",
            found=f"{len(found)} leaks, first: {found[0]}",
            mend="give no split times that the store was built to give another, or build into another store",
        )
    listed = planned.contexts if known_contexts is None else pd.concat([known_contexts, planned.contexts])
    with exclusive(objects) as still_ours:
        if read_root(objects) != root:
            raise FewcastError(
                f"the episode store {config.store} is not the one that this build began with",
                found="a version that another build has finished meanwhile",
                mend="run the same command again: it goes on from there",
            )
        digests, skipped = _write(config, frames, spec, planned, report, client)
        everything.loc[everything.index[planned.first_id :], "digest"] = digests
        settle(objects, client)
        still_ours()
        digest = commit(objects, spec, attributes, everything, listed.reset_index(drop=True))
        _forget_parts(objects)
    if type(report) is not Silent:  # drawing costs as much as cutting some hundred episodes
        store = EpisodeStore(config.store)
        report.figure("contexts", context_map(store), store.version)
        report.figure("episodes", sheet(store), store.version)
    return _summary(config, digest, len(attributes["versions"]) + 1, everything, planned, len(added) - skipped)


def _write(
    config: EpisodesConfig, frames: Frames, spec: StoreSpec, planned: Plan, report: Report, client: Any
) -> tuple[list[str], int]:
    """Write all shards of the plan that are not there yet; returns their digests, and how many were there."""
    identity = json.dumps([_settings(config), asdict(spec), planned.first_id], sort_keys=True)
    source = [frames_digest(one, planned.timing, planned.digests) for one in planned.specs]
    name = hashlib.blake2b(json.dumps([identity, *source, *map(repr, planned.specs)]).encode(), digest_size=8)
    call = partial(_write_task, config.store, frames, spec, planned.timing, name.hexdigest())
    numbered = list(enumerate(planned.specs, planned.first_id))
    done = fan_out(
        call, list(batches(numbered, SHARDS_PER_TASK)), client=client, report=report, note="cutting episodes"
    )
    return [digest for digests, _ in done for digest in digests], sum(skipped for _, skipped in done)


def _write_task(
    url: str, frames: Frames, spec: StoreSpec, timing: Timing, plan_name: str, items: Sequence[tuple[int, EpisodeSpec]]
) -> tuple[list[str], int]:
    """One Dask task: its shards, which no other task touches, and then a record that they are there.

    A record is believed only if every shard has the digest that it says: what a kill or a power cut tore is done again.
    """
    objects = open_objects(url)
    record = f"parts/{plan_name}/{items[0][0]}"
    digests = (objects.get(record) or b"").decode(errors="replace").split()
    if len(digests) == len(items) and all(
        shard_digest(objects.get(f"frames/{shard.key(number)}")) == digest
        for (number, _), digest in zip(items, digests, strict=True)
    ):
        return digests, len(items)
    digests = []
    blocks = cut(frames, [one for _, one in items], timing, spec.tile_pixels, spec.margin_pixels)

    def encoded() -> Iterator[tuple[str, bytes]]:
        for (number, _), block in zip(items, blocks, strict=True):
            data = shard.encode(block, spec.compression)
            digests.append(shard_digest(data))
            yield f"frames/{shard.key(number)}", data

    for_each(objects, lambda item: put_soon(objects, *item), encoded())
    put_soon(objects, record, "\n".join(digests).encode())
    return digests, 0


def _catalog(config: EpisodesConfig, frames: Frames, planned: Plan, version: int) -> pd.DataFrame:
    """The rows of the planned episodes; the digests of their shards are still empty."""
    times, timing = frames.archive.times, planned.timing
    last_input = (timing.inputs - 1) * timing.step
    made = []
    for number, spec in enumerate(planned.specs, planned.first_id):
        row = {"id": number, **vars(spec)}
        for name in ("support", "query"):
            starts = np.array(row[name], np.int64)
            row[name], row[f"{name}_init"] = starts, times[starts + last_input]
        row["frames_digest"] = frames_digest(spec, timing, planned.digests)
        made.append(row | {"digest": "", "version": version})
    table = pd.DataFrame(made)
    constants = {
        "tile_pixels": config.tile_pixels,
        "margin_pixels": config.margin_pixels,
        "buffer_pixels": config.split.buffer_pixels,
        "window_frames": timing.inputs + timing.targets,
        "step_slots": timing.step,
        "gap_slots": timing.gap,
        "buffer_slots": -(-config.split.buffer_minutes // timing.cadence_minutes),
    }
    return table.assign(**constants)


def _store_spec(config: EpisodesConfig, frames: Frames, timing: Timing) -> StoreSpec:
    kinds = [frames.archive.kind_of[name] for name in frames.channels]
    return StoreSpec(
        channels=frames.channels,
        kinds=tuple(kinds),
        units=tuple(UNITS[kind] for kind in kinds),
        scale=tuple(frames.scale.tolist()),
        offset=tuple(frames.offset.tolist()),
        input_frames=config.input_frames,
        target_frames=config.target_frames,
        support_windows=config.support_windows,
        query_windows=config.query_windows,
        tile_pixels=config.tile_pixels,
        margin_pixels=config.margin_pixels,
        lead_minutes=timing.lead_minutes,
        compression=config.compression,
    )


def _grid(grid: Grid) -> dict[str, Any]:
    """First centre, last centre and number of centres of either axis in metres, and the projection."""
    return {
        "x": [float(grid.x[0]), float(grid.x[-1]), len(grid.x)],
        "y": [float(grid.y[0]), float(grid.y[-1]), len(grid.y)],
        "crs": grid.crs,
    }


def _settings(config: EpisodesConfig) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude=set(FREE))
    settings["split"] = {name: value for name, value in settings["split"].items() if name not in TIMES}
    return settings


def _same_settings(config: EpisodesConfig, asked: dict[str, Any], built: dict[str, Any]) -> None:
    differing = [name for name in asked if asked[name] != built.get(name)]
    if differing:
        first = differing[0]
        raise FewcastError(
            f"the episode store {config.store} was built with other settings ({', '.join(differing)})",
            found=f"{first} = {built.get(first)!r} there, {asked[first]!r} asked for",
            mend="restore them, give another --set episodes.store=URL, or delete the store to build it anew",
        )


def _same_frames(store: EpisodeStore, planned: Plan) -> None:
    """Refuse to go on where frames that episodes were cut from are not what they were."""
    changed, slots = [], set()
    for row in rows(store.catalog):
        spec = spec_of(row)
        if frames_digest(spec, planned.timing, planned.digests) != row.frames_digest:
            changed.append(row.id)
            slots |= set(spec.support) | set(spec.query)
    if changed:
        raise FewcastError(
            f"the archive has changed under the episode store {store.url}",
            found=f"{len(changed)} of {len(store.catalog)} episodes cut from frames that differ (first: {changed[0]})",
            mend="restore the archive, or build into another --set episodes.store=URL",
        )


def _forget_parts(objects: Objects) -> None:
    for key, _ in list(objects.keys("parts")):
        objects.delete(key)


def _summary(
    config: EpisodesConfig, digest: str, version: int, catalog: pd.DataFrame, planned: Plan, built: int
) -> StoreSummary:
    names = [name_of(split, holdout) for split, holdout in zip(catalog["split"], catalog["holdout"], strict=True)]
    counts = {str(name): int(number) for name, number in pd.Series(names).value_counts(sort=False).items()}
    skipped = len(catalog) - built
    return StoreSummary(config.store, digest, version, counts, planned.windows, built, skipped)
