"""Himawari AHI as the ISatSS tiles of NOAA's bucket: one image is up to 88 NetCDF files, cut from the full disk.

Layout: the AWIPS sectorized cloud and moisture imagery, `Sectorized_CMI` on scan angles in microradians. The tiles that
would hold space alone are not published.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.satellite import hdf5, keys, packed
from core.satellite.granule import (
    CorruptGranule,
    Granule,
    Grid,
    Image,
    Kind,
    Pixels,
    Reason,
    UnavailableGranule,
    observed_at,
)
from core.satellite.grid import same_grid

BANDS = {f"B{band:02d}": band for band in range(1, 17)}
LAST_SOLAR_BAND = 6
CODES = {1: "010", 2: "010", 3: "005", 4: "010"}
SLOT_MINUTES = 10
MICRO = 1e-6
KEY = re.compile(r"OR_HFD-(\d{3})-B\d{2}-M\d+C(\d{2})-T(\d{3})_G[A-Z0-9]+_s(\d{13})\d?_c\d{13,14}\.nc$")


def prefixes(config: IngestConfig, times: TimeRange) -> list[str]:
    """One folder a slot of the archive: between them lie thousands of files that nobody asked for."""
    step = timedelta(minutes=config.cadence_minutes)
    first = config.origin - (config.origin - times.start) // step * step
    count = -(-(times.end - first) // step)
    return [
        f"AHI-L2-FLDK-ISatSS/{first + i * step:%Y/%m/%d/%H%M}/" for i in range(count) if first + i * step >= times.start
    ]


def parse(key: str, config: IngestConfig) -> list[tuple[str, np.datetime64]]:
    match = KEY.search(key)
    if match is None or match[1] != CODES.get(int(match[2]), "020") or f"B{match[2]}" not in BANDS:
        return []
    slot = keys.moment(match[4], "%Y%j%H%M%S", SLOT_MINUTES)
    return [(f"B{match[2]}", slot)] if slot is not None else []


def combine(group: Sequence[Granule]) -> Granule:
    """The tiles of one image as one granule; of a tile published twice, the last."""
    tiles = {number(tile): tile for tile in group}
    parts = tuple(tiles[n] for n in sorted(tiles))
    etag = hashlib.md5(" ".join(f"{p.url} {p.etag}" for p in parts).encode(), usedforsecurity=False).hexdigest()
    url = parts[0].url.rpartition("-T")[0]
    return Granule(url, parts[0].channel, parts[0].time, sum(p.size for p in parts), etag, parts)


def number(tile: Granule) -> int:
    match = KEY.search(tile.url)
    return int(match[3]) if match else 0


def kind(channel: str, config: IngestConfig) -> Kind:
    if channel not in BANDS:
        raise ValueError(f"{channel!r} is no AHI band; there are {', '.join(BANDS)}")
    return "reflectance" if BANDS[channel] <= LAST_SOLAR_BAND else "brightness_temperature"


class Place(NamedTuple):
    """Where a tile lies in the full image, in pixels."""

    row: int
    column: int
    rows: int
    columns: int

    def overlap(self, rows: slice, columns: slice) -> tuple[slice, slice] | None:
        top, bottom = max(self.row, rows.start), min(self.row + self.rows, rows.stop)
        left, right = max(self.column, columns.start), min(self.column + self.columns, columns.stop)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None


NOWHERE = Place(0, 0, 0, 0)


def shifted(window: tuple[slice, slice], row: int, column: int) -> tuple[slice, slice]:
    """The window counted from (row, column)."""
    rows, columns = window
    return slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column)


@dataclass(frozen=True)
class Tile:
    """One opened and checked tile."""

    place: Place
    pixels: hdf5.Variable
    table: NDArray[np.float32]
    fill: int
    shape: tuple[int, int]
    grid: Grid
    observed: np.datetime64


@dataclass
class Layout:
    """How images of one shape lie and are cut: the size of every tile, and where tile n lies, as far as it was seen."""

    grid: Grid
    size: tuple[int, int]
    places: dict[int, Place] = field(default_factory=dict)

    def fits(self, tile: Tile) -> bool:
        return tile.place[2:] == self.size and same_grid(tile.grid, self.grid)

    def takes(self, n: int, place: Place) -> bool:
        """Whether tile n has always lain there, and no other; where not, both are asked anew in the next image."""
        denied = [m for m, known in self.places.items() if (m == n) != (known == place)]
        for m in denied:
            del self.places[m]
        if not denied:
            self.places[n] = place
        return not denied


# By the shape of the image, learned where two tiles agree: a crop then opens only what it needs.
_LAYOUTS: dict[tuple[int, int], Layout] = {}
_LOCK = Lock()


def open(granule: Granule, files: Sequence[hdf5.File], config: IngestConfig) -> Image:
    """Check the first tile against the key and its siblings; the others are opened when a window touches them.

    A corrupt tile is a gap in the image, not the end of it.
    """
    numbers = [number(part) for part in granule.parts]
    opened: dict[int, Tile | None] = {}
    placed: dict[int, Tile | None] = {}
    refused: list[CorruptGranule] = []

    def tile(i: int) -> Tile | None:
        if i not in opened:
            try:
                opened[i] = _tile(granule, files[i], config)
            except UnavailableGranule:
                raise
            except CorruptGranule as error:
                opened[i] = None
                refused.append(error)
        return opened[i]

    first, layout = _agreed(filter(None, map(tile, range(len(numbers)))), refused)

    def fitting(i: int) -> Tile | None:
        """Tile i, if it is of this image and lies where tile i has always lain."""
        if i not in placed:
            found = placed[i] = tile(i)
            with _LOCK:
                if found is not None and not (layout.fits(found) and layout.takes(numbers[i], found.place)):
                    placed[i] = None
                    text = f"tile {numbers[i]}, at {found.place} of {found.shape}, does not fit the others"
                    refused.append(CorruptGranule(Reason.WRONG_GRID, text))
        return placed[i]

    def place(i: int) -> Place:
        with _LOCK:
            known = layout.places.get(numbers[i])
        found = None if known else fitting(i)
        return known or (found.place if found else NOWHERE)

    def read(rows: slice, columns: slice) -> Pixels:
        rows, columns = (slice(*s.indices(n)[:2]) for s, n in zip((rows, columns), first.shape, strict=True))
        values = np.full((rows.stop - rows.start, columns.stop - columns.start), np.nan, np.float32)
        gap = np.ones(values.shape, bool)
        wild, all_zero = 0, True
        for i in range(len(numbers)):
            window = place(i).overlap(rows, columns)
            if window is None or (part := fitting(i)) is None:
                continue
            try:
                raw = hdf5.read(part.pixels, *shifted(window, part.place.row, part.place.column)).view(np.uint16)
            except UnavailableGranule:
                raise
            except CorruptGranule as error:
                placed[i] = None
                refused.append(error)
                continue
            piece = hdf5.lookup(part.table, raw)
            wild += int(np.count_nonzero(np.isnan(piece) & (raw != part.fill)))
            all_zero &= not raw.any()
            here = shifted(window, rows.start, columns.start)
            values[here], gap[here] = piece, False
        nothing = bool(gap.all())
        if refused and nothing:
            raise refused[0]
        return Pixels(
            values, 0, wild, all_zero and not nothing, packed.lacks_earth(gap, first.grid.window(rows, columns))
        )

    return Image(granule.channel, kind(granule.channel, config), granule.time, first.observed, first.grid, read)


def _agreed(tiles: Iterable[Tile], refused: Sequence[CorruptGranule]) -> tuple[Tile, Layout]:
    """A tile that another of its image bears out, or images before it, and how such an image is cut.

    A damaged tile may agree with itself in all it says. One that is alone and of an unknown shape is believed, for this
    image. Raises the first refusal where no tile is left, and `CorruptGranule` where no two agree.
    """
    seen: list[tuple[Tile, Layout]] = []
    for tile in tiles:
        own = Layout(tile.grid, (tile.place.rows, tile.place.columns))
        with _LOCK:
            known = _LAYOUTS.get(tile.shape)
            if known and known.fits(tile):
                return tile, known
            if any(other.fits(tile) for _, other in seen):
                _LAYOUTS[tile.shape] = own
                return tile, own
        seen.append((tile, own))
    if not seen:
        raise refused[0]
    (tile, own), *others = seen
    if others or tile.shape in _LAYOUTS:
        raise CorruptGranule(Reason.WRONG_GRID, f"a tile at {tile.place} of {tile.shape} agrees with no other")
    return tile, own


def _tile(granule: Granule, file: hdf5.File, config: IngestConfig) -> Tile:
    pixels, attributes = hdf5.variable(file, "Sectorized_CMI", 2), file.attrs
    if pixels.dtype.itemsize != 2 or pixels.dtype.kind not in "iu":
        raise CorruptGranule(Reason.WRONG_SHAPE, f"Sectorized_CMI has type {pixels.dtype}")
    band = int(hdf5.number(attributes, "channel_id", 0, 99))
    if band != BANDS[granule.channel]:
        raise CorruptGranule(Reason.WRONG_CHANNEL, f"the key says {granule.channel}, the file B{band:02d}")
    observed = _time(granule, hdf5.text(attributes, "start_date_time"))
    shape = tuple(int(hdf5.number(attributes, name, 1, 30_000)) for name in ("product_rows", "product_columns"))
    place = Place(
        int(hdf5.number(attributes, "tile_row_offset", 0, shape[0] - 1)),
        int(hdf5.number(attributes, "tile_column_offset", 0, shape[1] - 1)),
        *pixels.shape,
    )
    if any(n % step or at % step for n, at, step in zip(shape, place[:2], place[2:], strict=True)):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"a tile at {place} in an image of {shape}, which is cut evenly")
    grid = _grid(file, place, (shape[0], shape[1]))
    (dy, dx), x, y = grid.spacing, grid.x, grid.y  # the tile's own coordinates must bear its place out
    if abs(x[0] + x[-1]) >= dx or abs(y[0] + y[-1]) >= dy:
        raise CorruptGranule(Reason.WRONG_GRID, f"a tile at {place} of a disk that is not centred")
    table, fill = _table(pixels, kind(granule.channel, config))
    return Tile(place, pixels, table, fill, (shape[0], shape[1]), grid, observed)


def _table(pixels: hdf5.Variable, quantity: Kind) -> tuple[NDArray[np.float32], int]:
    """Value of each raw pattern: kelvin as packed, reflectance factors times 100; and the raw value of no data."""
    units = hdf5.text(pixels.attrs, "units").lower()
    expected = ("1", "*1") if quantity == "reflectance" else ("k", "kelvin")
    if units not in expected:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{quantity} in {units[:20]!r}")
    return packed.table(packed.levels(pixels) * (100 if quantity == "reflectance" else 1), pixels, quantity)


def _time(granule: Granule, text: str) -> np.datetime64:
    try:
        observed = np.datetime64(datetime.strptime(text[:13], "%Y%j%H%M%S"), "s")
    except ValueError as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"start_date_time is {text[:40]!r}") from error
    return observed_at(granule, observed, -60, SLOT_MINUTES * 60)


def _grid(file: hdf5.File, place: Place, shape: tuple[int, int]) -> Grid:
    """The full image's grid, continued from the tile's own coordinates."""
    crs = packed.geostationary(file, "fixedgrid_projection")
    x, y = packed.axes(file, MICRO * crs["perspective_point_height"], (place.rows, place.columns))
    dx, dy = (x[-1] - x[0]) / (len(x) - 1), (y[-1] - y[0]) / (len(y) - 1)
    return Grid(x[0] + dx * (np.arange(shape[1]) - place.column), y[0] + dy * (np.arange(shape[0]) - place.row), crs)
