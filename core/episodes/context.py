"""Contexts: region tiles in spans of time, held out in space, in time or both, with what they hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.episodes.spans import Span, Timing

# split, holdout, the split whose tiles it uses, the split whose times it uses
HOLDOUTS = (
    ("train", "", "train", "train"),
    ("validation", "region", "validation", "train"),
    ("validation", "time", "train", "validation"),
    ("validation", "both", "validation", "validation"),
    ("test", "region", "test", "train"),
    ("test", "time", "train", "test"),
    ("test", "both", "test", "test"),
)


@dataclass(frozen=True)
class Windows:
    """Which windows may be used: `starts[split][slot - first, tile]` is True if a window of that split's times
    may begin there, all of its frames being usable, covered and inside the split's times."""

    first: int
    starts: dict[str, NDArray[np.bool_]]
    weight: NDArray[np.float64]  # (slots, tiles): mean change over a window's frames


def valid_windows(
    usable: NDArray[np.bool_], split_slots: dict[str, NDArray[np.bool_]], change: NDArray[np.float64], first: int,
    timing: Timing,
) -> Windows:  # fmt: skip
    """Windows from usable frames (slots, tiles), the slots of each split (slots,) and change (slots, tiles).

    A frame without a predecessor has no change of its own: it takes its tile's mean.
    """
    starts = {name: _all_frames(usable & slots[:, None], timing) for name, slots in split_slots.items()}
    known = np.isfinite(change)
    mean = np.where(known, change, 0).sum(0) / np.maximum(known.sum(0), 1)
    filled = np.where(known, change, mean)
    weight = np.zeros_like(filled)
    for offset in timing.offsets:
        weight[: len(filled) - offset] += filled[offset:]
    return Windows(first, starts, weight / len(timing.offsets))


def _all_frames(good: NDArray[np.bool_], timing: Timing) -> NDArray[np.bool_]:
    starts = np.zeros_like(good)
    count = len(good) - timing.reach
    if count > 0:
        starts[:count] = np.logical_and.reduce([good[offset : offset + count] for offset in timing.offsets])
    return starts


def contexts(
    tiles: pd.DataFrame, spans: dict[str, list[Span]], windows: Windows, split_slots: dict[str, NDArray[np.bool_]],
    statistics: dict[str, NDArray[np.float64]], timing: Timing,
) -> pd.DataFrame:  # fmt: skip
    """One row a context: split, holdout, tile (index into tiles), row, col, y0, x0, span_start, span_stop (slots),
    season, year, windows (valid ones), and the mean over its frames of each of `statistics` (slots, tiles).

    Contexts without any valid window are left out. All tiles of a span are summed at once, so that long lists
    are quick.
    """
    pieces = []
    sums = {
        (when, name): _running(np.where(slots[:, None], values, np.nan))
        for when, slots in split_slots.items()
        for name, values in statistics.items()
    }
    counts = {name: np.cumsum(np.pad(starts, ((1, 0), (0, 0))), axis=0) for name, starts in windows.starts.items()}
    home = tiles["split"].to_numpy()
    last = len(windows.weight)
    for split, holdout, where, when in HOLDOUTS:
        index = np.flatnonzero(home == where)
        for span in spans[when]:
            begin = min(max(span.start - windows.first, 0), last)
            end = min(max(span.stop - windows.first, begin), last)
            stop = max(end - timing.reach, begin)
            valid = counts[when][stop][index] - counts[when][begin][index]
            some = valid > 0
            if not some.any():
                continue
            chosen = index[some]
            piece: dict[str, Any] = {"split": split, "holdout": holdout, "tile": chosen}
            piece |= {name: tiles[name].to_numpy()[chosen] for name in ("row", "col", "y0", "x0")}
            piece |= {"span_start": span.start, "span_stop": span.stop, "season": span.season, "year": span.year}
            piece |= {"windows": valid[some]}
            for name in statistics:
                total, known = sums[when, name]
                n = known[end][chosen] - known[begin][chosen]
                piece[name] = (total[end][chosen] - total[begin][chosen]) / np.where(n > 0, n, np.nan)
            pieces.append(piece)
    if not pieces:
        return pd.DataFrame(columns=["split", "holdout", "tile", "windows"])
    whole = {
        name: np.concatenate([np.broadcast_to(piece[name], len(piece["tile"])) for piece in pieces])
        for name in pieces[0]
    }
    return pd.DataFrame(whole)


def _running(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    known = np.isfinite(values)
    pad = ((1, 0), (0, 0))
    return np.pad(np.where(known, values, 0).cumsum(0), pad), np.pad(known.cumsum(0), pad)


def window_counts(windows: Windows, tiles: pd.DataFrame) -> pd.DataFrame:
    """Valid windows of each split and hold-out: how many starts, and how many starts x tiles."""
    home = tiles["split"].to_numpy()
    rows = []
    for split, holdout, where, when in HOLDOUTS:
        chosen = windows.starts[when][:, home == where]
        rows.append((split, holdout, int(chosen.any(axis=1).sum()), int(chosen.sum())))
    return pd.DataFrame(rows, columns=["split", "holdout", "starts", "windows"])
