"""One Dask pass over the archive: what each tile looks like in each slot."""

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.episodes.frames import MISSING, Frames
from core.fanout import fan_out
from core.report import Report

BYTES_PER_TASK = 16 * 2**20
FIELDS = ("count", "total", "squares", "change", "cloud", "motion")
MOTION_EVERY = 4  # slots, since it costs as much as all the rest

# What a person would call cloud, per kind, for maps and tables only: colder than, or brighter than.
CLOUD = {"brightness_temperature": (-1, 273.15), "reflectance": (1, 35.0), "display_count": (1, 110.0)}


@dataclass(frozen=True)
class Survey:
    """Statistics of `slots` (S,) x tiles (P,): arrays (S, P, C), or (S, P) for the first channel alone.

    count: observed pixels; total, squares: their sum and sum of squares in physical units; change: mean absolute
    difference from the frame one step before (NaN where there is none); cloud: fraction of observed pixels that are
    cloud; motion: speed in pixels per step, of some slots only; digest: (S,) of each slot's stored codes, all tiles
    and more.
    """

    slots: NDArray[np.int64]
    pixels: int
    count: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]
    change: NDArray[np.float64]
    cloud: NDArray[np.float64]
    motion: NDArray[np.float64]
    digest: NDArray[Any]

    @property
    def coverage(self) -> NDArray[np.float64]:
        """Observed fraction (S, P) of a tile's pixels, the worst channel's."""
        return self.count.min(axis=2) / self.pixels


def survey(
    frames: Frames, slots: NDArray[np.int64], tiles: pd.DataFrame, tile_pixels: int, step: int, *,
    known: NDArray[np.int64] | None = None, client: Any = None, report: Report | None = None,
) -> Survey:  # fmt: skip
    """Statistics of the tiles (y0, x0) in the given ascending slots; `step` slots separate a window's frames.

    `known` are all usable slots, of which `slots` may be a part: change is measured from any of them.
    """
    height, width = frames.archive.shape
    frame_bytes = 2 * height * width * len(frames.channels)
    size = max(8, BYTES_PER_TASK // frame_bytes)
    pieces = [slots[i : i + size] for i in range(0, len(slots), size)]
    places = tiles[["y0", "x0"]].to_numpy()
    others = frozenset((slots if known is None else known).tolist())
    call = partial(_survey_piece, frames, places, tile_pixels, step, others)
    found = fan_out(call, pieces, client=client, report=report, note="surveying the archive")
    joined = {name: np.concatenate([piece[name] for piece in found]) for name in (*FIELDS, "digest")}
    return Survey(slots=slots, pixels=tile_pixels**2, **joined)


def _survey_piece(
    frames: Frames, places: NDArray[np.int64], side: int, step: int, known: frozenset[int], slots: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The statistics of some slots, tile by tile for all of them at once.

    Sums are taken of the integer codes, so they are exact and do not depend on how slots are cut into pieces.
    """
    own = slots.tolist()
    earlier = [slot - step for slot in own if slot - step in known and slot - step not in set(own)]
    order = sorted([*own, *earlier])
    codes = frames.codes(order)
    at = np.searchsorted(order, own)
    paired = np.flatnonzero([slot - step in known for slot in own])
    here, before = at[paired], np.searchsorted(order, slots[paired] - step)
    shape = (len(own), len(places), len(frames.channels))
    out: dict[str, NDArray[Any]] = {name: np.zeros(shape) for name in ("count", "total", "squares")}
    out |= {name: np.full(shape[:2], np.nan) for name in ("change", "cloud", "motion")}
    digests = [hashlib.sha256(codes[i]).hexdigest()[:32].encode() for i in at]
    out["digest"] = np.array(digests, dtype="S32")
    sign, threshold = CLOUD.get(frames.archive.kind_of[frames.channels[0]], (1, np.inf))
    colder, cloudy = sign < 0, (threshold - frames.offset[0]) / frames.scale[0]
    some = slice(None, None, MOTION_EVERY)
    whole = not (codes == MISSING).any()
    # Buffers for all tiles: fresh ones of this size would each cost a page fault for every 4 KiB.
    values = np.empty((*codes.shape[:2], side, side))
    difference = np.empty((len(paired), side, side))
    for p, (y0, x0) in enumerate(places):
        tile = codes[:, :, y0 : y0 + side, x0 : x0 + side]
        values[...] = tile
        holes = not whole and bool((tile == MISSING).any())
        if holes:
            values[tile == MISSING] = np.nan
        add = np.nansum if holes else np.sum
        seen = np.isfinite(values).sum((2, 3)) if holes else np.full(values.shape[:2], side * side)
        out["count"][:, p] = seen[at]
        out["total"][:, p] = add(values, axis=(2, 3))[at]
        first = values[:, 0]
        with np.errstate(invalid="ignore", divide="ignore"):
            out["cloud"][:, p] = ((first < cloudy if colder else first > cloudy).sum((1, 2)) / seen[:, 0])[at]
            for i, (now, then) in enumerate(zip(here, before, strict=True)):
                np.subtract(first[now], first[then], out=difference[i])
            np.abs(difference, out=difference)
            both = np.isfinite(difference).sum((1, 2)) if holes else side * side
            out["change"][paired, p] = add(difference, axis=(1, 2)) / both * frames.scale[0]
        out["motion"][paired[some], p] = _motion(first[before[some]], first[here[some]])
        if holes:
            values[tile == MISSING] = 0
        out["squares"][:, p] = np.einsum("tcyx,tcyx->tc", values, values)[at]
    count, total, squares = out["count"], out["total"], out["squares"]
    out["squares"] = frames.scale**2 * squares + 2 * frames.scale * frames.offset * total + frames.offset**2 * count
    out["total"] = frames.scale * total + frames.offset * count
    return out


def _motion(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Speed (T,) in pixels per step of the one shift that best explains (T, y, x) before -> after.

    Least squares on the brightness-constancy equation, once over the tile (Lucas and Kanade, 1981). It tells calm
    from moving tiles; jumps of more than a feature's width are underestimated.
    """
    before, after = before.astype(np.float32), after.astype(np.float32)
    twice = before + after
    inner = slice(1, -1)
    gy, gx = (twice[:, 2:, inner] - twice[:, :-2, inner]) / 4, (twice[:, inner, 2:] - twice[:, inner, :-2]) / 4
    gt = after[:, inner, inner] - before[:, inner, inner]
    if not np.isfinite(twice).all():
        known = np.isfinite(gx + gy + gt)
        gx, gy, gt = (np.where(known, part, 0) for part in (gx, gy, gt))
    pairs = ((gx, gx), (gx, gy), (gy, gy), (gx, gt), (gy, gt))
    xx, xy, yy, xt, yt = (np.einsum("tyx,tyx->t", a, b) for a, b in pairs)
    determinant = xx * yy - xy * xy
    with np.errstate(invalid="ignore", divide="ignore"):
        u, v = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
        flat = determinant <= 1e-6 * (xx + yy) ** 2
        return np.where(flat, np.nan, np.hypot(u, v))


def normalisation(found: Survey, slots: NDArray[np.bool_], tiles: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Mean and std per channel over the observed pixels of some slots and tiles (the training ones).

    A channel without variance gets std 1, so that nothing divides by zero.
    """
    count, total, squares = (getattr(found, name)[slots][:, tiles].sum(axis=(0, 1)) for name in FIELDS[:3])
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return mean.tolist(), np.where(std > 0, std, 1).tolist()
