"""Contexts to episodes: which windows are support and which are query. No arrays, no archive."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.config import EpisodesConfig
from core.episodes.context import Windows
from core.episodes.lattice import nearby
from core.episodes.spans import Timing
from core.episodes.tables import rows

T = TypeVar("T")
# A window as calm as this fraction of its context's mean change is drawn no more rarely.
CALMEST = 0.1


@dataclass(frozen=True)
class EpisodeSpec:
    """All that is needed to cut an episode from its archive: places in pixels, times in slots.

    `support` and `query` are the first slots of their windows, ascending.
    """

    split: str
    holdout: str
    row: int
    col: int
    y0: int
    x0: int
    span_start: int
    span_stop: int
    season: str
    year: int
    support: tuple[int, ...]
    query: tuple[int, ...]
    seed: int


def hashed(key: str) -> int:
    """A seed of 63 bits that is a function of the key alone, on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


class Choices:
    """The episodes that one context offers: its valid starts, and which of them can be a first query window.

    `starts` (n,) are slots, ascending. `anchors` are the positions in it from which N_Q query windows fit and
    before which, after the gap, N_S support windows fit.
    """

    def __init__(self, starts: NDArray[np.int64], config: EpisodesConfig, timing: Timing) -> None:
        self.starts = starts
        self.config = config
        count = len(starts)
        self._before = np.searchsorted(starts, starts - config.support_stride, side="right") - 1
        self._after = np.searchsorted(starts, starts + config.query_stride, side="left")
        self._latest = np.searchsorted(starts, starts - timing.reach - timing.step - timing.gap, side="right") - 1
        support, query = self._latest.copy(), np.arange(count)
        for _ in range(config.support_windows - 1):
            support = np.where(support >= 0, self._before[support], -1)
        for _ in range(config.query_windows - 1):
            query = np.where(query < count, self._after[np.minimum(query, count - 1)], count)
        enough = (support >= 0) | (config.support_windows == 0)
        self.anchors = np.flatnonzero(enough & (query < count))

    def query(self, anchor: int) -> tuple[int, ...]:
        """The N_Q windows from an anchor on."""
        chosen, at = [], anchor
        for _ in range(self.config.query_windows):
            chosen.append(int(self.starts[at]))
            at = int(self._after[at])
        return tuple(chosen)

    def support(self, first_query: int, rng: np.random.Generator) -> tuple[int, ...]:
        """N_S windows that end before position `first_query`: the latest ones, or any."""
        wanted, latest = self.config.support_windows, int(self._latest[first_query])
        if self.config.draw == "random" and wanted:
            chosen: list[int] = []
            for at in rng.permutation(latest + 1):
                if all(abs(int(self.starts[at]) - other) >= self.config.support_stride for other in chosen):
                    chosen.append(int(self.starts[at]))
                if len(chosen) == wanted:
                    return tuple(sorted(chosen))
        recent, at = [], latest  # also where random draws painted themselves into a corner
        for _ in range(wanted):
            recent.append(int(self.starts[at]))
            at = int(self._before[at])
        return tuple(sorted(recent))


class Sampler:
    """Draws the episodes of contexts (the table of `core.episodes.context.contexts`)."""

    def __init__(self, config: EpisodesConfig, timing: Timing, windows: Windows, clear: NDArray[np.bool_]) -> None:
        self.config, self.timing, self.windows, self.clear = config, timing, windows, clear
        self._choices: dict[tuple[int, int, bytes], Choices] = {}

    def choices(self, context: Any) -> Choices:
        """What a context (a row of the table) offers; tiles with the same valid windows share the work."""
        when = "train" if context.holdout in ("", "region") else context.split
        first = self.windows.first
        begin = max(context.span_start - first, 0)
        end = max(context.span_stop - first - self.timing.reach, 0)
        good = self.windows.starts[when][begin:end, context.tile]
        key = (begin, end, np.packbits(good).tobytes())
        if key not in self._choices:
            self._choices[key] = Choices(np.flatnonzero(good) + begin + first, self.config, self.timing)
        return self._choices[key]

    def training(self, contexts: pd.DataFrame, count: int) -> Iterator[EpisodeSpec]:
        """`count` episodes shared among training contexts by their change, each drawn by its own hashed seed.

        Shares are cut from one cumulative sum at a regular pitch, so that they differ from the exact proportion by
        less than one episode.
        """
        listed = list(rows(contexts))
        offered = [self.choices(context) for context in listed]
        weights = [self._weights(choice, context.tile) for choice, context in zip(offered, listed, strict=True)]
        mass = np.array([w.mean() if len(w) else 0.0 for w in weights])
        if not mass.any():
            return
        edges = np.floor(np.cumsum(mass) / mass.sum() * count + 0.5).astype(int)
        shares = np.diff(edges, prepend=0)
        reachable: dict[int, NDArray[np.int64]] = {}
        for context, choice, weight, share in zip(listed, offered, weights, shares, strict=True):
            if share and context.tile not in reachable:
                reachable[context.tile] = nearby(self.clear, context.y0, context.x0, self.config.jitter_pixels)
            places = reachable.get(context.tile, np.empty((0, 2), np.int64))
            for n in range(share):
                seed = hashed(f"{context_key(self.config, context)}/{n}")
                rng = np.random.Generator(np.random.Philox(seed))
                anchor = int(rng.choice(choice.anchors, p=weight / weight.sum()))
                y0, x0 = places[rng.integers(len(places))]
                support = choice.support(anchor, rng)
                yield _spec(context, support, choice.query(anchor), seed, y0=int(y0), x0=int(x0))

    def evaluation(self, contexts: pd.DataFrame, count: int, taken: set[tuple[int, int]]) -> list[EpisodeSpec]:
        """At most `count` episodes that together cover the valid query windows evenly, each window once.

        Enumerated, not drawn: per tile and in order of time, every window that can be a query becomes one, N_Q to
        an episode, unless an earlier (overlapping) context has it. `taken` holds (tile, start) pairs and is
        updated. Where there are more episodes than `count`, each tile keeps evenly spaced ones.
        """
        by_tile: dict[int, list[tuple[Any, int, tuple[int, ...]]]] = {}
        for context in rows(contexts.sort_values(["tile", "span_start"])):
            for n, group in enumerate(self._groups(self.choices(context), context.tile, taken)):
                by_tile.setdefault(context.tile, []).append((context, n, group))
        return [self._evaluated(*chosen) for chosen in _evenly(list(by_tile.values()), count)]

    def _evaluated(self, context: Any, n: int, query: tuple[int, ...]) -> EpisodeSpec:
        choice, seed = self.choices(context), hashed(f"{context_key(self.config, context)}/{n}")
        rng = np.random.Generator(np.random.Philox(seed))
        support = choice.support(int(np.searchsorted(choice.starts, query[0])), rng)
        return _spec(context, support, query, seed, y0=context.y0, x0=context.x0)

    def _groups(self, choice: Choices, tile: int, taken: set[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
        """Windows not yet taken, N_Q at a time and a query stride apart.

        What has support before it has so at any later time, so every start after the first anchor may be a query.
        """
        if not len(choice.anchors):
            return
        rest = [start for start in choice.starts[choice.anchors[0] :].tolist() if (tile, start) not in taken]
        later = np.searchsorted(rest, np.array(rest, np.int64) + self.config.query_stride).tolist()
        following = list(range(len(rest) + 1))  # leads from a window, by more and more steps, to the next free one

        def free(at: int) -> int:
            while following[at] != at:
                following[at] = at = following[following[at]]
            return at

        first = free(0)
        while first < len(rest):
            chosen = [first]
            while len(chosen) < self.config.query_windows and chosen[-1] < len(rest):
                chosen.append(free(later[chosen[-1]]))
            if chosen[-1] == len(rest):
                return
            group = tuple(rest[at] for at in chosen)
            for at in chosen:
                following[at] = at + 1
            taken.update((tile, start) for start in group)
            yield group
            first = free(first)

    def _weights(self, choice: Choices, tile: int) -> NDArray[np.float64]:
        change = self.windows.weight[choice.starts[choice.anchors] - self.windows.first, tile]
        if not change.any():
            return np.ones_like(change)
        return np.maximum(change, CALMEST * change.mean()) ** self.config.activity


def context_key(config: EpisodesConfig, context: Any) -> str:
    """A context's name, from which its episodes' seeds are hashed; it says nothing of other contexts."""
    names = ("split", "holdout", "y0", "x0", "span_start", "span_stop")
    return "/".join(str(value) for value in (config.seed, *(getattr(context, name) for name in names)))


def _spec(
    context: Any, support: tuple[int, ...], query: tuple[int, ...], seed: int, *, y0: int, x0: int
) -> EpisodeSpec:
    same = {f.name: getattr(context, f.name) for f in fields(EpisodeSpec) if hasattr(context, f.name)}
    return EpisodeSpec(**{**same, "y0": y0, "x0": x0, "support": support, "query": query, "seed": seed})


def _evenly(by_tile: list[list[T]], count: int) -> list[T]:
    total = sum(len(found) for found in by_tile)
    if total <= count:
        return [one for found in by_tile for one in found]
    edges = np.floor(np.cumsum([len(found) for found in by_tile]) / total * count + 0.5).astype(int)
    kept = []
    for found, share in zip(by_tile, np.diff(edges, prepend=0), strict=True):
        places = np.floor((np.arange(share) + 0.5) * len(found) / max(share, 1)).astype(int)
        kept += [found[i] for i in places]
    return kept
