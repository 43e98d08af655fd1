"""One Dask pass over the archive: what each tile looks like in each slot."""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.episodes.fanout import fan_out
from core.episodes.frames import MISSING, Frames
from core.report import Report

BYTES_PER_TASK = 64 * 2**20
FIELDS = ("count", "total", "squares", "change", "cloud")

# What a person would call cloud, per kind, for maps and tables only: colder than, or brighter than.
CLOUD = {"brightness_temperature": (-1, 273.15), "reflectance": (1, 35.0), "display_count": (1, 110.0)}


@dataclass(frozen=True)
class Survey:
    """Statistics of `slots` (S,) x tiles (P,): arrays (S, P, C), or (S, P) for the first channel alone.

    count: observed pixels; total, squares: their sum and sum of squares in physical units; change: mean absolute
    difference from the frame one step before (NaN where there is none); cloud: fraction of observed pixels that are
    cloud; digest: (S,) of each slot's stored codes, all tiles and more.
    """

    slots: NDArray[np.int64]
    pixels: int
    count: NDArray[np.int64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    change: NDArray[np.float64]
    cloud: NDArray[np.float64]
    digest: NDArray[Any]

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Observed fraction (S, P) of a tile's pixels, the worst channel's."""
        return self.count.min(axis=2) / self.pixels


def survey(
    frames: Frames, slots: NDArray[np.int64], tiles: pd.DataFrame, tile_pixels: int, step: int, *,
    client: Any = None, report: Report | None = None,
) -> Survey:  # fmt: skip
    """Statistics of the tiles (y0, x0) in the given ascending slots; `step` slots separate a window's frames."""
    height, width = frames.archive.shape
    frame_bytes = 2 * height * width * len(frames.channels)
    size = max(8, BYTES_PER_TASK // frame_bytes)
    pieces = [slots[i : i + size] for i in range(0, len(slots), size)]
    places = tiles[["y0", "x0"]].to_numpy()
    known = frozenset(int(slot) for slot in slots)
    call = partial(_survey_piece, frames, places, tile_pixels, step, known)
    found = fan_out(call, pieces, client=client, report=report, note="surveying the archive")
    joined = {name: np.concatenate([piece[name] for piece in found]) for name in (*FIELDS, "digest")}
    return Survey(slots=slots, pixels=tile_pixels**2, **joined)


def _survey_piece(
    frames: Frames, places: NDArray[np.int64], side: int, step: int, known: frozenset[int], slots: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    shape = (len(slots), len(places), len(frames.channels))
    out: dict[str, NDArray[Any]] = {
        "count": np.zeros(shape, np.int64),
        "total": np.zeros(shape),
        "squares": np.zeros(shape),
        "change": np.full(shape[:2], np.nan),
        "cloud": np.full(shape[:2], np.nan),
        "digest": np.empty(len(slots), dtype="S32"),
    }
    scale, offset = frames.scale[:, None, None], frames.offset[:, None, None]
    sign, threshold = CLOUD.get(frames.archive.kind_of[frames.channels[0]], (1, np.inf))
    recent: dict[int, NDArray[np.uint16]] = {}
    for i, slot in enumerate(int(s) for s in slots):
        codes = frames.codes([slot])[0]
        before = recent.get(slot - step)
        if before is None and slot - step in known:
            before = frames.codes([slot - step])[0]
        recent = {key: value for key, value in recent.items() if key > slot - step} | {slot: codes}
        out["digest"][i] = hashlib.blake2b(codes.tobytes(), digest_size=16).hexdigest().encode()
        values = np.where(codes == MISSING, np.nan, codes * scale + offset)
        first_change = None
        if before is not None:
            both = (codes[0] != MISSING) & (before[0] != MISSING)
            gap = np.abs(codes[0].astype(np.int32) - before[0]) * scale[0]
            first_change = np.where(both, gap, np.nan)
        for p, (y0, x0) in enumerate(places):
            box = (slice(y0, y0 + side), slice(x0, x0 + side))
            tile = values[(slice(None), *box)]
            seen = ~np.isnan(tile)
            out["count"][i, p] = seen.sum(axis=(1, 2))
            filled = np.where(seen, tile, 0)
            out["total"][i, p] = filled.sum(axis=(1, 2))
            out["squares"][i, p] = (filled * filled).sum(axis=(1, 2))
            if seen[0].any():
                out["cloud"][i, p] = (sign * tile[0][seen[0]] > sign * threshold).mean()
            if first_change is not None and np.isfinite(first_change[box]).any():
                out["change"][i, p] = np.nanmean(first_change[box])
    return out


def normalisation(found: Survey, slots: NDArray[np.bool_], tiles: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Mean and std per channel over the observed pixels of some slots and tiles (the training ones).

    A channel without variance gets std 1, so that nothing divides by zero.
    """
    count, total, squares = (getattr(found, name)[slots][:, tiles].sum(axis=(0, 1)) for name in FIELDS[:3])
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1).tolist()
