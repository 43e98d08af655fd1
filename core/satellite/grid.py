"""Grids onto grids: whole pixels and blocks where the lattices agree, bilinear resampling where they do not."""

import math
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.satellite import area
from core.satellite.granule import CorruptGranule, Frame, Grid, Image, Pixels, Reason

# Within a twentieth of a pixel two lattices are one; beyond it values are interpolated.
SAME_LATTICE_PIXELS = 0.05
# A mean or an interpolation needs this share of its weight on pixels that are there.
ENOUGH = 0.5
BAND_PIXELS = 1 << 23


def coarsen(grid: Grid, block: int) -> Grid:
    """The grid of whole blocks, counted from the north-west corner; an incomplete last block is left out."""
    rows, columns = (n // block * block for n in grid.shape)
    if not rows or not columns:
        raise ValueError(f"blocks of {block} pixels do not fit a grid of {grid.shape}")
    return Grid(
        grid.x[:columns].reshape(-1, block).mean(axis=1), grid.y[:rows].reshape(-1, block).mean(axis=1), grid.crs
    )


def over_the_disk(grid: Grid) -> Grid:
    """The lattice of a geostationary grid over all that the satellite sees of the Earth."""
    height, radius = grid.crs["perspective_point_height"], grid.crs["semi_major_axis"]
    edge = height * math.asin(radius / (height + radius))
    dy, dx = grid.spacing
    west, east = (max(0, math.ceil((edge - reach) / dx)) for reach in (-grid.x[0], grid.x[-1]))
    north, south = (max(0, math.ceil((edge - reach) / dy)) for reach in (grid.y[0], -grid.y[-1]))
    columns, rows = np.arange(-west, len(grid.x) + east), np.arange(-north, len(grid.y) + south)
    return Grid(grid.x[0] + dx * columns, grid.y[0] - dy * rows, grid.crs)


def block_mean(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Mean of the valid pixels of each block (Y block, X block) -> (Y, X); NaN where fewer than half are valid."""
    if block == 1:
        return values
    rows, columns = values.shape[0] // block, values.shape[1] // block
    blocks = values.reshape(rows, block, columns, block)
    total = blocks.sum(axis=3, dtype=np.float32).sum(axis=1, dtype=np.float64)
    mean = total / block**2
    gaps = np.isnan(mean)
    if gaps.any():
        valid = ~np.isnan(blocks)
        count = valid.sum(axis=(1, 3))
        with np.errstate(invalid="ignore", divide="ignore"):
            some = np.where(valid, blocks, 0).sum(axis=(1, 3), dtype=np.float64) / count
        mean = np.where(count >= ENOUGH * block**2, some, np.nan)
    return mean.astype(np.float32)


def same_crs(a: Grid, b: Grid) -> bool:
    """Equal projections up to the rounding of their parameters."""
    left, right = a.crs, b.crs
    if left.keys() != right.keys():
        return area.crs(a) == area.crs(b)
    return all(_same(left[k], right[k]) for k in left)


def _same(a: Any, b: Any) -> bool:
    """Two values of a parameter: texts, numbers, or several numbers."""
    if isinstance(a, str) or isinstance(b, str):
        return bool(a == b)
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-8, atol=1e-7)


def same_grid(a: Grid, b: Grid) -> bool:
    return a.shape == b.shape and lattice(a, b) == (1, 0, 0)


def lattice(source: Grid, target: Grid) -> tuple[int, int, int] | None:
    """(block, row, column): the target's pixels are blocks of whole source pixels from there on; None if not so."""
    if not same_crs(source, target):
        return None
    (dy, dx), (ty, tx) = source.spacing, target.spacing
    block = round(tx / dx)
    if block < 1:
        return None
    length = block * max(target.shape)
    if max(abs(tx / (block * dx) - 1), abs(ty / (block * dy) - 1)) * length > SAME_LATTICE_PIXELS:
        return None
    column = ((target.x[0] - tx / 2) - (source.x[0] - dx / 2)) / dx
    row = ((source.y[0] + dy / 2) - (target.y[0] + ty / 2)) / dy
    if max(abs(row - round(row)), abs(column - round(column))) > SAME_LATTICE_PIXELS:
        return None
    return block, round(row), round(column)


def align(image: Image, target: Grid) -> Frame:
    """The image on the target grid, decoded only where the target lies.

    Raises `CorruptGranule` where the grids do not overlap, where nothing is left, and where most of it is unphysical.
    """
    found = lattice(image.grid, target)
    loss = _Loss()
    values = _blocks(image, target, found, loss) if found else _resampled(image, target, loss)
    if loss.all_zero:
        raise CorruptGranule(Reason.ALL_ZERO, "every raw value is zero")
    missing = np.isnan(values)
    pixels = max(loss.pixels, 1)
    if loss.out_of_range > 0.5 * pixels:
        raise CorruptGranule(
            Reason.OUT_OF_RANGE, f"{loss.out_of_range} of {pixels} pixels are outside the physical range"
        )
    if missing.all():
        raise CorruptGranule(Reason.BAD_QUALITY if loss.flagged else Reason.ALL_MISSING, "no pixel is left")
    reason = Reason.NONE
    if loss.missing_tiles:
        reason = Reason.MISSING_TILES
    elif loss.uncovered:
        reason = Reason.PART_OF_AREA
    elif loss.out_of_range:
        reason = Reason.OUT_OF_RANGE
    elif loss.flagged:
        reason = Reason.BAD_QUALITY
    return Frame(
        image.channel,
        image.kind,
        image.time,
        image.observation_time,
        values,
        target,
        reason,
        loss.flagged,
        loss.out_of_range,
    )


class _Loss:
    """What was dropped while the windows of one image were read."""

    def __init__(self) -> None:
        self.flagged = self.out_of_range = self.pixels = 0
        self.all_zero, self.uncovered, self.missing_tiles = True, False, False

    def take(self, pixels: Pixels) -> NDArray[np.float32]:
        self.flagged += pixels.flagged
        self.out_of_range += pixels.out_of_range
        self.pixels += pixels.values.size
        self.all_zero &= pixels.raw_all_zero
        self.missing_tiles |= pixels.missing_tiles
        self.uncovered |= pixels.uncovered
        return pixels.values


def _blocks(image: Image, target: Grid, found: tuple[int, int, int], loss: _Loss) -> NDArray[np.float32]:
    """Shift and average whole pixels, in bands of rows so that a full disk never stands in memory at once."""
    block, row, column = found
    (rows, columns), (have_rows, have_columns) = target.shape, image.grid.shape
    # Target rows and columns whose block lies wholly inside the source.
    top, bottom = max(0, -(row // block)), min(rows, (have_rows - row) // block)
    left, right = max(0, -(column // block)), min(columns, (have_columns - column) // block)
    if top >= bottom or left >= right:
        raise CorruptGranule(Reason.WRONG_GRID, "the granule's grid does not overlap the archive's")
    loss.uncovered = (bottom - top, right - left) != target.shape
    values = np.full(target.shape, np.nan, np.float32)
    span = slice(column + left * block, column + right * block)
    band = max(1, BAND_PIXELS // ((span.stop - span.start) * block))
    for start in range(top, bottom, band):
        stop = min(start + band, bottom)
        window = image.read(slice(row + start * block, row + stop * block), span)
        values[start:stop, left:right] = block_mean(loss.take(window), block)
    return values


def _resampled(image: Image, target: Grid, loss: _Loss) -> NDArray[np.float32]:
    """Block means down to about the target's resolution, then bilinear interpolation between them."""
    rows, columns = _positions(image.grid, target)
    on_earth = np.isfinite(rows)
    (have_rows, have_columns), near = image.grid.shape, 0.5
    inside = on_earth & (rows > -near) & (rows < have_rows - 1 + near)
    inside &= (columns > -near) & (columns < have_columns - 1 + near)
    if not inside.any():
        raise CorruptGranule(Reason.WRONG_GRID, "the granule's grid does not overlap the archive's")
    loss.uncovered = bool((on_earth & ~inside).any())
    block = max(1, int(_stride(rows, columns) + 0.1))
    if block > min(image.grid.shape):
        raise CorruptGranule(Reason.WRONG_GRID, f"{image.grid.shape} pixels, where the archive's span {block}")
    top, left = (max(int(np.floor(p[inside].min())) - block, 0) // block * block for p in (rows, columns))
    bottom = min(int(np.ceil(rows[inside].max())) + 2 * block, have_rows)
    right = min(int(np.ceil(columns[inside].max())) + 2 * block, have_columns)
    bottom, right = top + max((bottom - top) // block, 1) * block, left + max((right - left) // block, 1) * block
    band = max(1, BAND_PIXELS // ((right - left) * block)) * block
    coarse = np.concatenate(
        [
            block_mean(loss.take(image.read(slice(r, min(r + band, bottom)), slice(left, right))), block)
            for r in range(top, bottom, band)
        ]
    )
    centre = (block - 1) / 2
    return _bilinear(coarse, (rows - top - centre) / block, (columns - left - centre) / block, inside)


def _stride(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> float:
    """Typical distance between neighbouring target pixels, in source pixels."""
    steps = [np.abs(np.diff(rows, axis=0)), np.abs(np.diff(columns, axis=1))]
    medians = [float(np.nanmedian(s)) for s in steps if np.isfinite(s).any()]
    return min(medians, default=1.0)


def _bilinear(
    values: NDArray[np.float32], rows: NDArray[np.floating], columns: NDArray[np.floating], inside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Interpolate at fractional (row, column); missing neighbours lose their weight, NaN where half of it is lost."""
    height, width = values.shape
    r, c = np.clip(rows[inside], 0, height - 1), np.clip(columns[inside], 0, width - 1)
    r0, c0 = (np.minimum(p.astype(np.int64), n - 2 if n > 1 else 0) for p, n in ((r, height), (c, width)))
    fr, fc = r - r0, c - c0
    total, weight = np.zeros(len(r)), np.zeros(len(r))
    for i, j, w in ((0, 0, (1 - fr) * (1 - fc)), (0, 1, (1 - fr) * fc), (1, 0, fr * (1 - fc)), (1, 1, fr * fc)):
        found = values[np.minimum(r0 + i, height - 1), np.minimum(c0 + j, width - 1)]
        valid = ~np.isnan(found)
        total += np.where(valid, found, 0) * w
        weight += np.where(valid, w, 0)
    result = np.full(rows.shape, np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        result[inside] = np.where(weight >= ENOUGH, total / weight, np.nan)
    return result


def _key(grid: Grid) -> Hashable:
    parameters = tuple((name, *np.ravel(value).tolist()) for name, value in sorted(grid.crs.items()))
    return (grid.x.tobytes(), grid.y.tobytes(), parameters)


class _ByValue:
    """A pair of grids that is equal to another by content: what the cache of positions looks up."""

    def __init__(self, source: Grid, target: Grid) -> None:
        self.source, self.target = source, target
        self.key = (_key(source), _key(target))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByValue) and self.key == other.key


def _positions(source: Grid, target: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fractional source (row, column) of each target pixel, NaN where it is off the Earth."""
    return _cached_positions(_ByValue(source, target))


@lru_cache(maxsize=4)
def _cached_positions(pair: _ByValue) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    source, target = pair.source, pair.target
    x, y = np.meshgrid(target.x, target.y)
    if not same_crs(source, target):
        x, y = area.transform(area.crs(target), area.crs(source), x, y)
    dy, dx = source.spacing
    return ((source.y[0] - y) / dy).astype(np.float32), ((x - source.x[0]) / dx).astype(np.float32)
