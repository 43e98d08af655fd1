"""Areas by name or by bounds in degrees, and the window of a grid that covers one."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import FewcastError
from core.satellite.granule import Grid

if TYPE_CHECKING:
    import pyproj


class Bounds(NamedTuple):
    """Degrees; `east` may exceed 180 where the area crosses the date line."""

    west: float
    south: float
    east: float
    north: float


AREAS = {
    "korea": Bounds(122.0, 31.0, 133.0, 44.0),
    "japan": Bounds(122.0, 24.0, 149.0, 46.0),
    "taiwan": Bounds(117.0, 19.0, 126.0, 28.0),
    "east_asia": Bounds(100.0, 15.0, 155.0, 55.0),
    "southeast_asia": Bounds(92.0, -11.0, 142.0, 25.0),
    "australia": Bounds(110.0, -45.0, 157.0, -9.0),
    "conus": Bounds(-125.0, 24.0, -66.0, 50.0),
    "caribbean": Bounds(-90.0, 8.0, -58.0, 28.0),
    "gulf_of_mexico": Bounds(-99.0, 17.0, -79.0, 31.0),
    "hawaii": Bounds(-162.0, 17.0, -153.0, 24.0),
    "brazil": Bounds(-75.0, -35.0, -33.0, 6.0),
}
PROBES, STRIP = 65, 32


def bounds(text: str) -> Bounds | None:
    """The bounds that `text` names or spells as west,south,east,north; None for an empty text (everything)."""
    name = text.strip().lower().replace("-", "_").replace(" ", "_")
    if not name:
        return None
    if name in AREAS:
        return AREAS[name]
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise FewcastError(
            "the area is neither a name nor four numbers",
            found=repr(text),
            mend=f"use west,south,east,north in degrees or one of {', '.join(AREAS)}",
        ) from None
    east += 360 if east < west else 0
    if not (-180 <= west <= 360 and 0 < east - west <= 360 and -90 <= south < north <= 90):
        raise FewcastError(
            "the area has impossible bounds",
            found=repr(text),
            mend="use west,south,east,north in degrees, south first, at most 360 degrees wide",
        )
    return Bounds(west, south, east, north)


@lru_cache(maxsize=32)
def _crs(items: tuple[tuple[str, Any], ...]) -> "pyproj.CRS":
    import pyproj  # where no frame comes, nothing is projected

    return pyproj.CRS.from_cf(dict(items))


def crs(grid: Grid) -> "pyproj.CRS":
    # An archive gives back as lists what projections with two parallels have.
    return _crs(tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(grid.crs.items())))


@lru_cache(maxsize=32)
def _transformer(source: "pyproj.CRS", target: "pyproj.CRS") -> "pyproj.Transformer":
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)


def transform(
    source: "pyproj.CRS", target: "pyproj.CRS", x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates in another system; NaN where there are none (off the disk)."""
    u, v = _transformer(source, target).transform(x, y)
    bad = ~(np.isfinite(u) & np.isfinite(v))
    return np.where(bad, np.nan, u), np.where(bad, np.nan, v)


def lonlat(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Longitude and latitude (Y, X) of the pixel centres in degrees, NaN off the disk."""
    system = crs(grid)
    x, y = np.meshgrid(grid.x, grid.y)
    return transform(system, _degrees(system), x, y)


def _degrees(system: "pyproj.CRS") -> "pyproj.CRS":
    """Longitude and latitude on the ellipsoid of a projection."""
    import pyproj

    return system.geodetic_crs or pyproj.CRS.from_epsg(4326)


def window(grid: Grid, area: Bounds | None) -> tuple[slice, slice]:
    """The smallest window of rows and columns that holds the area, as far as the grid reaches.

    Raises `FewcastError` where the grid does not reach it at all.
    """
    rows, columns = grid.shape
    if area is None:
        return slice(0, rows), slice(0, columns)
    lon, lat = np.meshgrid(np.linspace(area.west, area.east, PROBES), np.linspace(area.south, area.north, PROBES))
    system = crs(grid)
    x, y = transform(_degrees(system), system, lon, lat)
    seen = np.isfinite(x)
    dy, dx = grid.spacing
    if seen.any():
        first_row, last_row = (
            int(np.floor((grid.y[0] - y[seen].max()) / dy)),
            int(np.ceil((grid.y[0] - y[seen].min()) / dy)),
        )
        first, last = (int(np.floor((x[seen].min() - grid.x[0]) / dx)), int(np.ceil((x[seen].max() - grid.x[0]) / dx)))
        top, bottom = max(first_row, 0), min(last_row + 1, rows)
        left, right = max(first, 0), min(last + 1, columns)
        if top < bottom and left < right:
            found = slice(top, bottom), slice(left, right)
            round_the_earth = area.east - area.west == 360
            return found if seen.all() and not round_the_earth else _grown(grid, area, *found)
    where = "the satellite's view" if not seen.any() else "the granules' grid"
    raise FewcastError(
        "the area cannot be seen",
        found=f"{area.west:g},{area.south:g},{area.east:g},{area.north:g} outside {where}",
        mend="choose an area that this system and sector observe",
    )


def _grown(grid: Grid, area: Bounds, rows: slice, columns: slice) -> tuple[slice, slice]:
    """The window, with those pixels of the area that lie beyond the outermost probes: at the limb, round the Earth."""
    while True:
        (top, bottom), (left, right) = (
            (max(side.start - STRIP, 0), min(side.stop + STRIP, count))
            for side, count in zip((rows, columns), grid.shape, strict=True)
        )
        strips = (
            (slice(top, rows.start), slice(left, right)),
            (slice(rows.stop, bottom), slice(left, right)),
            (rows, slice(left, columns.start)),
            (rows, slice(columns.stop, right)),
        )
        held = np.concatenate(
            [np.argwhere(_inside(grid.window(*one), area)) + np.array([one[0].start, one[1].start]) for one in strips]
        )
        if not len(held):
            return rows, columns
        rows, columns = (
            slice(min(side.start, int(place.min())), max(side.stop, int(place.max()) + 1))
            for side, place in zip((rows, columns), held.T, strict=True)
        )


def _inside(grid: Grid, area: Bounds) -> NDArray[np.bool_]:
    """Which pixel centres (Y, X) lie in the area."""
    if 0 in grid.shape:
        return np.zeros(grid.shape, bool)
    lon, lat = lonlat(grid)
    return np.asarray(((lon - area.west) % 360 <= area.east - area.west) & (lat >= area.south) & (lat <= area.north))
