"""Look at a store, prove that it is whole and without leaks, and rebuild a damaged episode alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from core.archive.objects import open_objects
from core.episodes import shard
from core.episodes.cut import cut
from core.episodes.frames import Frames
from core.episodes.leaks import leaks
from core.episodes.plan import name_of, spec_of
from core.episodes.spans import Timing
from core.episodes.store import EpisodeStore, shard_digest, store_digest
from core.episodes.tables import rows
from core.errors import FewcastError
from core.fanout import batches, fan_out
from core.report import Report, Silent

EPISODES_PER_TASK = 64
LINES_TOLD = 20


@dataclass(frozen=True)
class Inspection:
    """What a store holds: `counts` (episodes, tiles, windows and times by split), `regions` (episodes by tile and
    split), `contexts` (quantiles of what the contexts look like, by split) and `leaks` (empty: there are none)."""

    url: str
    version: int
    digest: str
    counts: pd.DataFrame
    regions: pd.DataFrame
    contexts: pd.DataFrame
    units: str
    leaks: list[str]

    def __str__(self) -> str:
        verdict = "no leaks" if not self.leaks else f"{len(self.leaks)} leaks, first: {self.leaks[0]}"
        counts = self.counts.assign(
            **{name: self.counts[name].dt.strftime("%Y-%m-%d %H:%M") for name in ("first", "last")}
        )
        regions = self.regions.replace(0, "")
        names = dict.fromkeys(str(name).split()[0] for name in self.contexts)
        ranges = {name: self.contexts.filter(regex=f"^{name} ").apply(_as_range, axis=1) for name in names}
        return "\n".join(
            [
                f"{self.url}, version {self.version}, digest {self.digest}: {verdict}",
                "\nEpisodes (times are UTC, of a window's last input)",
                _text(counts),
                "\nEpisodes by row and column of the lattice",
                _text(regions),
                f"\nContexts: what a tenth, half and nine tenths of them lie below (change in {self.units})",
                _text(pd.DataFrame(ranges)),
            ]
        )


def inspect(url: str, version: int | None = None) -> Inspection:
    """Counts per split and region, distributions and the leak check, from the tables alone."""
    store = EpisodeStore.open(url, version)
    catalog = store.catalog
    names = _names(catalog)
    first = "support_init" if store.spec.support_windows else "query_init"
    counts = pd.DataFrame(
        {
            "episodes": catalog.groupby(names, sort=False).size(),
            "tiles": catalog.groupby(names, sort=False).apply(lambda t: len(t[["y0", "x0"]].drop_duplicates())),
            "query windows": catalog.groupby(names, sort=False)["query"].agg(lambda q: len(np.concatenate(list(q)))),
            "first": catalog.groupby(names, sort=False)[first].agg(_earliest),
            "last": catalog.groupby(names, sort=False)["query_init"].agg(_latest),
        }
    )
    regions = pd.crosstab([catalog["row"], catalog["col"]], names).reindex(columns=names.unique())
    regions.columns.name = None
    contexts = store.contexts
    shown = [name for name in ("windows", "coverage", "cloud", "change", "motion") if name in contexts]
    grouped = contexts.groupby(_names(contexts), sort=False)
    spread = pd.DataFrame(
        {f"{name} {level:.0%}": grouped[name].quantile(level) for name in shown for level in (0.1, 0.5, 0.9)}
    )
    units = f"{'counts' if store.units[0] == '1' else store.units[0]} of {store.channels[0]}"
    return Inspection(url, store.version, store.digest, counts, regions, spread.round(3), units, leaks(catalog))


@dataclass(frozen=True)
class Validation:
    """What `validate` found: `damaged` episodes with what is wrong, those of them `rebuilt`, and broken rules."""

    url: str
    version: int
    episodes: int
    damaged: dict[int, str]
    rebuilt: list[int]
    leaks: list[str]

    @property
    def valid(self) -> bool:
        """Whether the store is now whole and without leaks."""
        return len(self.rebuilt) == len(self.damaged) and not self.leaks

    def __str__(self) -> str:
        lines = [f"{self.url}, version {self.version}: {self.episodes} episodes read, {len(self.damaged)} damaged"]
        for number, what in list(self.damaged.items())[:LINES_TOLD]:
            lines.append(f"episode {number}: {what}" + (", rebuilt" if number in self.rebuilt else ""))
        if len(self.damaged) > LINES_TOLD:
            lines.append(f"... and {len(self.damaged) - LINES_TOLD} more damaged episodes")
        lines += [f"leak: {line}" for line in self.leaks[:LINES_TOLD]] or ["no leaks"]
        if len(self.leaks) > LINES_TOLD:
            lines.append(f"... and {len(self.leaks) - LINES_TOLD} more leaks")
        return "\n".join([*lines, "valid" if self.valid else "NOT VALID"])


def validate(
    url: str, *, rebuild_damaged: bool = False, archive: str = "", report: Report | None = None, client: Any = None
) -> Validation:  # fmt: skip
    """Read every shard, compare it with the catalog, and prove that there are no leaks.

    With `rebuild_damaged`, damaged shards are cut anew, from `archive` or from the one that the store was built from.
    Raises `FewcastError` where the catalog itself is not what the store's digest says.
    """
    store = EpisodeStore.open(url)
    catalog = store.catalog
    if store_digest(store.spec, store.attributes["normalisation"], catalog) != store.digest:
        raise FewcastError(
            f"the catalog of {url} is not the one that was written",
            found=f"another digest than {store.digest}",
            mend="restore it, or delete the store and build it anew",
        )
    items = list(zip(catalog["id"].tolist(), catalog["digest"].tolist(), strict=True))
    call = partial(_check, url)
    pieces = fan_out(
        call, list(batches(items, EPISODES_PER_TASK)), client=client, report=report, note="checking episodes"
    )
    damaged = {number: what for piece in pieces for number, what in piece.items()}
    done = rebuild(url, list(damaged), archive=archive, report=report) if rebuild_damaged and damaged else []
    return Validation(url, store.version, len(catalog), damaged, done, leaks(catalog))


def _check(url: str, items: Sequence[tuple[int, str]]) -> dict[int, str]:
    objects = open_objects(url)
    found = {}
    for number, digest in items:
        data = objects.get(f"frames/{shard.key(number)}")
        if data is None:
            found[number] = "its shard is missing"
        elif shard_digest(data) != digest:
            found[number] = f"its shard is damaged ({len(data)} bytes that do not match the catalog's digest)"
    return found


def rebuild(url: str, ids: Sequence[int], *, archive: str = "", report: Report | None = None) -> list[int]:
    """Cut some episodes anew and replace their shards; returns their ids.

    Raises `FewcastError`, leaving the shard as it is, where the archive no longer gives the bytes that it gave then.
    """
    report = report or Silent()
    store = EpisodeStore.open(url)
    frames = Frames.open(archive or store.attributes["archive"], store.channels)
    timing = Timing(**store.attributes["timing"])
    chosen = store.catalog.iloc[list(ids)]
    specs = [spec_of(row) for row in rows(chosen)]
    blocks = cut(frames, specs, timing, store.spec.tile_pixels, store.spec.margin_pixels)
    for done, (row, block) in enumerate(zip(rows(chosen), blocks, strict=True), 1):
        data = shard.encode(block, store.spec.compression)
        if shard_digest(data) != row.digest:
            raise FewcastError(
                f"episode {row.id} of {url} cannot be rebuilt",
                found=f"other frames in {frames.archive.url} than it was cut from",
                mend="restore the archive, or build into another --set episodes.store=URL",
            )
        store.objects.put(f"frames/{shard.key(row.id)}", data)
        report.progress(done, len(chosen), "rebuilding episodes")
    return [int(number) for number in chosen["id"]]


def _text(table: pd.DataFrame) -> str:
    """The table with its index as ordinary columns, so that no line holds index names alone."""
    plain = table.reset_index()
    formats: list[Any] = [None if pd.api.types.is_numeric_dtype(plain[name]) else _left(plain[name]) for name in plain]
    return plain.to_string(index=False, justify="left", formatters=formats)


def _left(column: "pd.Series[Any]") -> Any:
    width = int(column.astype(str).str.len().max())
    return lambda value: f"{value:<{width}}"


def _as_range(quantiles: "pd.Series[float]") -> str:
    return "  ".join(f"{value:.3g}" for value in quantiles)


def _names(table: pd.DataFrame) -> "pd.Series[str]":
    pairs = zip(table["split"], table["holdout"], strict=True)
    return pd.Series([name_of(split, holdout) for split, holdout in pairs], index=table.index, name="split")


def _earliest(times: Any) -> Any:
    return min(min(row) for row in times)


def _latest(times: Any) -> Any:
    return max(max(row) for row in times)
