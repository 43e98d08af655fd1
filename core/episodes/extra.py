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

    At any time each plane is a weighted sum of fields of the place, which are kept: no pixel needs a sine of its own.
    """

    def __init__(self, grid: Grid, wanted: Iterable[ExtraInput]) -> None:
        self.grid, self.wanted = grid, in_order(wanted)
        self._fields = lru_cache(maxsize=_PLACES)(self._find_fields)

    def at(self, init_time: Any, y0: int, x0: int, height: int, width: int) -> NDArray[np.float32]:
        """Planes (N, P, height, width) for init times (N,) of the window whose first pixel is (y0, x0).

        The window may reach beyond the grid, which is then continued.
        """
        times = np.asarray(init_time, "M8[ns]")
        weights = np.concatenate(
            [np.empty((len(times), 0, _FIELDS)), *(_WEIGHTS[name](times) for name in self.wanted)], 1
        )
        if not weights.size:
            return np.empty((*weights.shape[:2], height, width), np.float32)
        planes = weights.astype(np.float32) @ self._fields(int(y0), int(x0), height, width)
        return planes.reshape(*weights.shape[:2], height, width)

    def _find_fields(self, y0: int, x0: int, height: int, width: int) -> NDArray[np.float32]:
        """(field, pixel): 1, cosine and sine of the longitude, and the unit vector; all 0 off the disk."""
        dy, dx = self.grid.spacing
        y, x = _continued(self.grid.y, y0, height, -dy), _continued(self.grid.x, x0, width, dx)
        lon, lat = (np.deg2rad(angle).ravel() for angle in area.lonlat(Grid(x, y, self.grid.crs)))
        seen = np.isfinite(lon)
        fields = np.stack(
            [seen, np.cos(lon), np.sin(lon), np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]
        )
        return np.where(seen, fields, 0).astype(np.float32)


def _continued(centres: NDArray[np.float64], first: int, count: int, step: float) -> NDArray[np.float64]:
    index = np.arange(first, first + count)
    inside = np.clip(index, 0, len(centres) - 1)
    return centres[inside] + (index - inside) * step


def _time(times: NDArray[Any]) -> NDArray[np.float64]:
    start = times.astype("M8[Y]")
    season = 2 * np.pi * ((times - start) / ((start + 1).astype("M8[ns]") - start))
    hour = 2 * np.pi * ((times - times.astype("M8[D]")) / np.timedelta64(1, "D"))  # at Greenwich
    weights = np.zeros((len(times), 4, _FIELDS))
    weights[:, 0, 0], weights[:, 1, 0] = np.sin(season), np.cos(season)
    weights[:, 2, 1], weights[:, 2, 2] = np.sin(hour), np.cos(hour)
    weights[:, 3, 1], weights[:, 3, 2] = np.cos(hour), -np.sin(hour)
    return weights


def _sun(times: NDArray[Any]) -> NDArray[np.float64]:
    """The sun's direction: its zenith cosines where the axes of the unit vector meet the Earth."""
    weights = np.zeros((len(times), 1, _FIELDS))
    instants: Any = times[:, None]
    weights[:, 0, 3:] = sun.cos_zenith(instants, np.array([0.0, 90.0, 0.0]), np.array([0.0, 0.0, 90.0]))
    return weights


def _location(times: NDArray[Any]) -> NDArray[np.float64]:
    return np.tile(np.eye(_FIELDS)[3:], (len(times), 1, 1))


_FIELDS = 6
_WEIGHTS = {"time": _time, "sun": _sun, "location": _location}
