"""From the archive to the list of episodes: survey, contexts, draws."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.archive.objects import open_objects
from core.config import EpisodesConfig
from core.episodes.context import HOLDOUTS, contexts, valid_windows, window_counts
from core.episodes.cut import slots_of
from core.episodes.daylight import lowest_sun
from core.episodes.frames import Frames
from core.episodes.lattice import clear_positions, lattice
from core.episodes.memory import remembered_survey
from core.episodes.sampler import EpisodeSpec, Sampler
from core.episodes.spans import Span, Timing, spans, split_slots, timing, within
from core.episodes.survey import normalisation
from core.episodes.tables import rows
from core.errors import FewcastError
from core.report import Report, Silent

EMPTY_SPANS_TOLD = 8
CONTEXT_KEY = ["split", "holdout", "y0", "x0", "span_start", "span_stop"]


@dataclass(frozen=True)
class Plan:
    """What a build will do: the episodes by id from `first_id` on, and what they were drawn from."""

    first_id: int
    specs: list[EpisodeSpec]
    contexts: pd.DataFrame
    windows: pd.DataFrame
    digests: dict[int, str]
    mean: list[float]
    std: list[float]
    timing: Timing


def plan(
    config: EpisodesConfig, frames: Frames, *, known: pd.DataFrame | None = None, catalog: pd.DataFrame | None = None,
    report: Report | None = None, client: Any = None,
) -> Plan:  # fmt: skip
    """Survey the archive and draw episodes from its contexts, or, for a store that grows, from its new contexts.

    `known` are the contexts and `catalog` the episodes of earlier versions. Raises `FewcastError`, with the counts
    that explain it, where a split has no episode to offer.
    """
    report = report or Silent()
    archive = frames.archive
    windows_in_slots = timing(config, archive.cadence_minutes)
    tiles = lattice(config, archive.shape)
    claimed = split_slots(config.split, archive.times)
    usable = frames.usable(config.allow_partial)
    wanted = np.logical_or.reduce(list(claimed.values()))
    if not (wanted & usable).any():
        raise FewcastError(
            f"the archive {archive.url} has no usable frame at the splits' times",
            found=f"{wanted.sum()} slots wanted, {usable.sum()} usable in all{_extent(archive.times, usable)}",
            mend="set episodes.split to times that were ingested",
        )
    used = np.zeros_like(usable)
    if catalog is not None:
        used[np.unique(np.concatenate([slots_of(spec_of(row), windows_in_slots).ravel() for row in rows(catalog)]))] = (
            True
        )
    slots = np.flatnonzero((wanted | used) & usable)
    found = remembered_survey(
        open_objects(config.store), frames, slots, tiles, config.tile_pixels, windows_in_slots.step,
        client=client, report=report,
    )  # fmt: skip
    first, dense = int(slots[0]), int(slots[-1]) + 1 - int(slots[0])
    covered = _spread(found.coverage, slots - first, dense, np.nan)
    inside = {name: mask[first : first + dense] for name, mask in claimed.items()}
    change = _spread(found.change, slots - first, dense, np.nan)
    good = np.nan_to_num(covered, nan=-1.0) >= config.minimum_coverage
    if config.minimum_sun_degrees > -90:
        times = archive.times[first : first + dense]
        sun = lowest_sun(archive.grid, times, tiles, config.tile_pixels, config.jitter_pixels)
        good &= sun >= config.minimum_sun_degrees
    windows = valid_windows(good, inside, change, first, windows_in_slots)
    # A context ends where the archive does for now: once that has grown, the longer one is a new context.
    seen = archive.times[: first + dense]
    all_spans = {
        name: spans(config.span, getattr(config.split, name), seen, config.span_hours, config.span_stride_hours)
        for name in claimed
    }
    statistics = {"coverage": covered, "change": change}
    statistics |= {name: _spread(getattr(found, name), slots - first, dense, np.nan) for name in ("cloud", "motion")}
    listed = contexts(tiles, all_spans, windows, inside, statistics, windows_in_slots)
    counts = window_counts(windows, tiles)
    for name in claimed:
        for part in getattr(config.split, name):
            if not (usable & within([part], archive.times)).any():
                report.message(f"{name}: no usable frame from {part.start:%Y-%m-%d %H:%M} to {part.end:%Y-%m-%d %H:%M}")
    _tell_empty_spans(all_spans, listed, archive.times, usable, report)
    old = set() if known is None else set(known[CONTEXT_KEY].itertuples(index=False, name=None))
    fresh = [row not in old for row in listed[CONTEXT_KEY].itertuples(index=False, name=None)] if len(listed) else []
    clear = clear_positions(tiles, config, archive.shape)
    sampler = Sampler(config, windows_in_slots, windows, clear)
    new = listed[np.array(fresh, bool)]
    specs = _draw(config, sampler, new, tiles, catalog, len(old))
    if known is None:
        _require_all(config, specs, counts, listed, windows_in_slots)
    training = np.isin(slots, np.flatnonzero(claimed["train"]))
    mean, std = normalisation(found, training, (tiles["split"] == "train").to_numpy())
    digests = dict(zip(found.slots.tolist(), (d.decode() for d in found.digest), strict=True))
    first_id = 0 if catalog is None else len(catalog)
    return Plan(first_id, specs, new.drop(columns="tile"), counts, digests, mean, std, windows_in_slots)


def _draw(
    config: EpisodesConfig, sampler: Sampler, listed: pd.DataFrame, tiles: pd.DataFrame,
    catalog: pd.DataFrame | None, known: int,
) -> list[EpisodeSpec]:  # fmt: skip
    """Episodes of the listed contexts by split, time and place; a store that grows gets its share of each split."""
    specs: list[EpisodeSpec] = []
    share = len(listed) / known if known else 1.0
    numbers = {"train": config.train_episodes, "validation": config.validation_episodes, "test": config.test_episodes}
    places = {place: i for i, place in enumerate(tiles[["y0", "x0"]].itertuples(index=False, name=None))}
    for split, holdout, _, _ in HOLDOUTS:
        of_split = listed[(listed["split"] == split) & (listed["holdout"] == holdout)]
        count = max(1, round(numbers[split] * share))
        if split == "train":
            drawn = list(sampler.training(of_split, count))
        else:
            taken = set() if catalog is None else _taken(catalog, split, holdout, places)
            drawn = sampler.evaluation(of_split, count, taken)
        specs += sorted(drawn, key=lambda s: (s.query, s.support, s.y0, s.x0))
    return specs


def _taken(catalog: pd.DataFrame, split: str, holdout: str, places: dict[Any, int]) -> set[tuple[int, int]]:
    rows = catalog[(catalog["split"] == split) & (catalog["holdout"] == holdout)]
    return {
        (places[y0, x0], int(start))
        for y0, x0, query in rows[["y0", "x0", "query"]].itertuples(index=False, name=None)
        for start in query
    }


def _spread(values: NDArray[np.float64], at: NDArray[np.int64], length: int, fill: float) -> NDArray[np.float64]:
    dense = np.full((length, values.shape[1]), fill)
    dense[at] = values
    return dense


def _tell_empty_spans(
    all_spans: dict[str, list[Span]], listed: pd.DataFrame, times: NDArray[np.datetime64], usable: NDArray[np.bool_],
    report: Report,
) -> None:  # fmt: skip
    """Say which seasons, months or spans have no context, and how many frames they have: at most a few lines."""
    have = set(zip(listed["span_start"], listed["span_stop"], strict=True)) if len(listed) else set()
    empty = [(name, span) for name, some in all_spans.items() for span in some if (span.start, span.stop) not in have]
    for name, span in empty[:EMPTY_SPANS_TOLD]:
        first, last = (np.datetime_as_string(times[i], "m") for i in (span.start, span.stop - 1))
        frames = f"{usable[span.start : span.stop].sum()} usable frames in {span.stop - span.start} slots"
        report.message(f"{name}: no valid window in {span.season} {span.year}, {first} to {last} ({frames})")
    if len(empty) > EMPTY_SPANS_TOLD:
        report.message(f"... and {len(empty) - EMPTY_SPANS_TOLD} more spans without a valid window")


def _require_all(
    config: EpisodesConfig, specs: Sequence[EpisodeSpec], counts: pd.DataFrame, listed: pd.DataFrame, timing_: Timing
) -> None:
    have = {(spec.split, spec.holdout) for spec in specs}
    for split, holdout, _, _ in HOLDOUTS:
        if (split, holdout) in have:
            continue
        row = counts[(counts["split"] == split) & (counts["holdout"] == holdout)].iloc[0]
        number = 0 if listed.empty else int(((listed["split"] == split) & (listed["holdout"] == holdout)).sum())
        hours = ((timing_.reach + timing_.step) * timing_.cadence_minutes) / 60
        raise FewcastError(
            f"no {name_of(split, holdout)} episode can be drawn: each needs {config.support_windows} support windows "
            f"and then {config.query_windows} query windows of {hours:g} hours each, apart in time, in one context",
            found=f"{row['windows']} valid windows ({row['starts']} starts) in {number} contexts",
            mend="ingest more frames, lengthen the split's times or the span, or ask for fewer or shorter windows",
        )


def name_of(split: str, holdout: str) -> str:
    """The split's full name: test_both, or train."""
    return f"{split}_{holdout}" if holdout else split


def frames_digest(spec: EpisodeSpec, timing_: Timing, digests: dict[int, str]) -> str:
    """Digest of the frames that an episode is cut from; empty where one of them is not usable any more."""
    slots = np.unique(slots_of(spec, timing_)).tolist()
    if any(slot not in digests for slot in slots):
        return ""
    return hashlib.blake2b("".join(digests[slot] for slot in slots).encode(), digest_size=16).hexdigest()


def spec_of(row: Any) -> EpisodeSpec:
    """The specification that a catalog row was written from."""
    values = {field.name: getattr(row, field.name) for field in fields(EpisodeSpec)}
    values |= {name: tuple(int(start) for start in values[name]) for name in ("support", "query")}
    return EpisodeSpec(**values)


def _extent(times: NDArray[np.datetime64], usable: NDArray[np.bool_]) -> str:
    if not usable.any():
        return ""
    known = times[usable].astype("M8[m]")
    return f", from {known[0]} to {known[-1]}"
