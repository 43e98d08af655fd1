"""Where the sun stands: elevation in degrees, by which visible bands are masked at night."""

import numpy as np
from numpy.typing import NDArray

from core.satellite import area
from core.satellite.granule import Frame, Grid

CHANNEL = "solar_elevation"
J2000 = np.datetime64("2000-01-01T12:00:00", "ms")


def cos_zenith(time: np.datetime64, lon: NDArray[np.floating], lat: NDArray[np.floating]) -> NDArray[np.float64]:
    """Cosine of the solar zenith angle at longitude and latitude (degrees), at any broadcast shape.

    The low-precision solar coordinates of the Astronomical Almanac: within 0.01 degrees from 1950 to 2050, without
    refraction. Negative at night.
    """
    days = (time.astype("datetime64[ms]") - J2000) / np.timedelta64(1, "D")
    mean_longitude, anomaly = np.deg2rad(280.460 + 0.9856474 * days), np.deg2rad(357.528 + 0.9856003 * days)
    ecliptic = mean_longitude + np.deg2rad(1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.deg2rad(23.439 - 4e-7 * days)
    right_ascension = np.arctan2(np.cos(obliquity) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(obliquity) * np.sin(ecliptic))
    greenwich = np.deg2rad(280.46061837 + 360.98564736629 * days)
    hour_angle = greenwich + np.deg2rad(lon) - right_ascension
    phi = np.deg2rad(lat)
    result: NDArray[np.float64] = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(
        hour_angle
    )
    return result


def sun_frame(time: np.datetime64, grid: Grid) -> Frame:
    """The sun's elevation (degrees, NaN off the disk) over a grid as a frame of its own."""
    lon, lat = area.lonlat(grid)
    elevation = np.rad2deg(np.arcsin(np.clip(cos_zenith(time, lon, lat), -1, 1))).astype(np.float32)
    return Frame(CHANNEL, "solar_elevation", time, time, elevation, grid)
