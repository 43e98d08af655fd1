"""Extra input planes that are computed and never stored: what time it is, where the sun stands, and where on Earth.

They depend on the init time and the place alone, so that training, evaluation and forecasting compute the same ones.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config.train import ExtraInput
from core.satellite import area, sun
from core.satellite.granule import Grid

PLANES: dict[ExtraInput, tuple[str, ...]] = {
    "time": ("sine of the season", "cosine of the season", "sine of the solar hour", "cosine of the solar hour"),
    "sun": ("cosine of the solar zenith angle",),
    "location": ("cos lat cos lon", "cos lat sin lon", "sin lat"),
}
_PLACES = 256  # tiles whose longitudes and latitudes are kept


def in_order(wanted: Iterable[ExtraInput]) -> tuple[ExtraInput, ...]:
    """The wanted inputs, each once, in the order in which their planes stand in an input."""
    chosen = set(wanted)
    return tuple(name for name in PLANES if name in chosen)


def plane_names(wanted: Iterable[ExtraInput]) -> tuple[str, ...]:
    """What each extra plane is, in order."""
    return tuple(plane for name in in_order(wanted) for plane in PLANES[name])


class ExtraPlanes:
    """The wanted planes for any window of a grid at any time.

    time: sine and cosine of the fraction of the year that has passed, and of the local mean solar hour, which is that
    of UTC plus a 15th of the longitude. sun: cosine of the solar zenith angle at the init time, negative at night.
    location: the unit vector of the geodetic longitude and latitude, which has no seam. All lie in [-1, 1]; every
    plane is 0 off the disk.
    """

    def __init__(self, grid: Grid, wanted: Iterable[ExtraInput]) -> None:
        self.grid, self.wanted = grid, in_order(wanted)
        self._lonlat = lru_cache(maxsize=_PLACES)(self._find_lonlat)

    def at(self, init_time: Any, y0: int, x0: int, height: int, width: int) -> NDArray[np.float32]:
        """Planes (N, P, height, width) for init times (N,) of the window whose first pixel is (y0, x0).

        The window may reach beyond the grid, which is then continued.
        """
        times = np.asarray(init_time, "M8[ns]")
        planes = np.empty((len(times), len(plane_names(self.wanted)), height, width), np.float32)
        if not planes.size:
            return planes
        lon, lat = self._lonlat(int(y0), int(x0), height, width)
        first = 0
        for name in self.wanted:
            count = len(PLANES[name])
            planes[:, first : first + count] = _COMPUTE[name](times[:, None, None], lon, lat)
            first += count
        planes[:, :, ~np.isfinite(lon)] = 0
        return planes

    def _find_lonlat(self, y0: int, x0: int, height: int, width: int) -> tuple[NDArray[Any], NDArray[Any]]:
        dy, dx = self.grid.spacing
        y, x = _continued(self.grid.y, y0, height, -dy), _continued(self.grid.x, x0, width, dx)
        return area.lonlat(Grid(x, y, self.grid.crs))


def _continued(centres: NDArray[np.float64], first: int, count: int, step: float) -> NDArray[np.float64]:
    index = np.arange(first, first + count)
    inside = np.clip(index, 0, len(centres) - 1)
    return centres[inside] + (index - inside) * step


def _time(times: NDArray[Any], lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[Any]:
    start = times.astype("M8[Y]")
    season = 2 * np.pi * ((times - start) / ((start + 1).astype("M8[ns]") - start))
    hour = 2 * np.pi * ((times - times.astype("M8[D]")) / np.timedelta64(1, "D")) + np.deg2rad(lon)
    season = np.broadcast_to(season, hour.shape)
    return np.stack([np.sin(season), np.cos(season), np.sin(hour), np.cos(hour)], axis=1)


def _sun(times: NDArray[Any], lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[Any]:
    return sun.cos_zenith(times, lon, lat)[:, None]  # type: ignore[arg-type]


def _location(times: NDArray[Any], lon: NDArray[Any], lat: NDArray[Any]) -> NDArray[Any]:
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])


_COMPUTE = {"time": _time, "sun": _sun, "location": _location}
