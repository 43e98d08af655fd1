"""Which tiles see the sun, for visible channels that show nothing at night."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.satellite import area, sun
from core.satellite.granule import Grid


def lowest_sun(grid: Grid, times: Any, tiles: pd.DataFrame, side: int, reach: int) -> NDArray[np.float64]:
    """Least sun elevation in degrees (time, tile), by the tile's corners and centre, each moved out by `reach`.

    Points off the disk are left out; a tile that is wholly off the disk has -90.
    """
    lon, lat = area.lonlat(grid)
    places = []
    for name, extent in (("y0", grid.shape[0]), ("x0", grid.shape[1])):
        start = tiles[name].to_numpy()
        low, high = np.maximum(start - reach, 0), np.minimum(start + side - 1 + reach, extent - 1)
        places.append((low, high, (low + high) // 2))
    corners = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]
    y = np.stack([places[0][i] for i, _ in corners], axis=1)
    x = np.stack([places[1][j] for _, j in corners], axis=1)
    instants: Any = np.asarray(times)[:, None, None]
    cosine = sun.cos_zenith(instants, lon[y, x], lat[y, x])
    elevation = np.rad2deg(np.arcsin(np.clip(cosine, -1, 1)))
    lowest = np.where(np.isfinite(elevation), elevation, np.inf).min(axis=2)
    return np.where(np.isfinite(lowest), lowest, -90.0)
