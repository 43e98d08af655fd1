"""GK-2A AMI level 1B: one NetCDF file per band and time, full disk (FD) or the steerable local area (LA).

Layout and formulas: KMA's AMI level 1B user guide, and the headers of files in the bucket `noaa-gk2a-pds`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
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
    latest,
    observed_at,
    physical,
)

combine = latest
# Centre wavelength in micrometres and the resolution code of the key, by band.
BANDS = {
    "vi004": (0.47, "010"), "vi005": (0.51, "010"), "vi006": (0.64, "005"), "vi008": (0.86, "010"),
    "nr013": (1.37, "020"), "nr016": (1.61, "020"), "sw038": (3.83, "020"), "wv063": (6.21, "020"),
    "wv069": (6.94, "020"), "wv073": (7.33, "020"), "ir087": (8.59, "020"), "ir096": (9.62, "020"),
    "ir105": (10.35, "020"), "ir112": (11.23, "020"), "ir123": (12.36, "020"), "ir133": (13.29, "020"),
}  # fmt: skip
SPACING_METRES = {"005": 501.0, "010": 1002.0, "020": 2004.0}
EPOCH = np.datetime64("2000-01-01T12:00:00", "s")
# How far the observation's start may lie from the key's time (s): FD takes 10 minutes, LA repeats every 2. Published
# files start within the key's minute (LA: 42 and 56 s after it, FD: 32 s): those of both neighbours lie outside.
START_SECONDS = {"la": (-60, 120), "fd": (-120, 600)}
KEY = re.compile(r"gk2a_ami_le1b_([a-z]{2}\d{3})_(fd|la)(005|010|020)ge_(\d{12})\.nc$")
QUALITY_SHIFT, OUT_OF_SCAN = 14, 2


def prefixes(config: IngestConfig, times: TimeRange) -> list[str]:
    """One folder an hour."""
    return keys.folders(f"AMI/L1B/{config.sector.upper()}/%Y%m/%d/%H", times)


def parse(key: str, config: IngestConfig) -> list[tuple[str, np.datetime64]]:
    match = KEY.search(key)
    if match is None or match[2] != config.sector:
        return []
    channel, code = match[1], match[3]
    if channel not in BANDS or BANDS[channel][1] != code:
        return []
    time = keys.moment(match[4], "%Y%m%d%H%M")
    return [(channel, time)] if time is not None else []


def kind(channel: str, config: IngestConfig) -> Kind:
    if channel not in BANDS:
        raise ValueError(f"{channel!r} is no AMI band; there are {', '.join(BANDS)}")
    return "reflectance" if _solar(channel) else "brightness_temperature"


def _solar(channel: str) -> bool:
    return channel[:2] in ("vi", "nr")


def open(granule: Granule, files: Sequence[hdf5.File], config: IngestConfig) -> Image:
    """Check one file against its key and make it readable by windows."""
    (file,) = files
    attributes = file.attrs
    pixels = hdf5.variable(file, "image_pixel_values", 2)
    if pixels.dtype != np.uint16:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"image_pixel_values has type {pixels.dtype}")
    _check_channel(granule.channel, hdf5.text(pixels.attrs, "channel_name"), _wavelength(attributes))
    observed = _time(granule, attributes, config.sector or "fd")
    table = _table(_calibration(granule.channel, attributes, pixels.attrs), config.conditional)
    grid = _grid(granule.channel, attributes, pixels.shape)

    def read(rows: slice, columns: slice) -> Pixels:
        dn = hdf5.read(pixels, rows, columns)
        values = hdf5.lookup(table, dn)
        missing = int(np.count_nonzero(np.isnan(values)))
        flagged = out_of_range = 0
        uncovered = False
        if missing:
            quality = dn >> QUALITY_SHIFT
            count = np.bincount(quality.ravel(), minlength=4)
            flagged = int(count[3] + (0 if config.conditional else count[1]))
            out_of_range = missing - flagged - int(count[OUT_OF_SCAN])
            if count[OUT_OF_SCAN]:
                uncovered = packed.lacks_earth(quality == OUT_OF_SCAN, grid.window(rows, columns))
        return Pixels(values, flagged, out_of_range, not dn.any(), uncovered=uncovered)

    return Image(granule.channel, kind(granule.channel, config), granule.time, observed, grid, read)


class Calibration(NamedTuple):
    """The constants of one file, by which its raw counts become physical values."""

    infrared: bool
    valid_bits: int
    gain: float
    offset: float
    albedo: float
    wavelength: float
    c0: float
    c1: float
    c2: float
    light_speed: float
    boltzmann: float
    planck: float


def _calibration(channel: str, attributes: object, pixel_attributes: object) -> Calibration:
    def get(name: str, low: float, high: float) -> float:
        return hdf5.number(attributes, name, low, high)

    infrared = not _solar(channel)
    bits = int(hdf5.number(pixel_attributes, "number_of_valid_bits_per_pixel", 8, QUALITY_SHIFT))
    hdf5.number(pixel_attributes, "number_of_data_quality_flag_bits_per_pixel", 2, 2)
    gain, offset = get("DN_to_Radiance_Gain", -1e3, 1e3), get("DN_to_Radiance_Offset", -1e5, 1e5)
    if not infrared:
        albedo = get("Radiance_to_Albedo_c", 0, 1e3)
        return Calibration(False, bits, gain, offset, albedo, 0, 0, 0, 0, 0, 0, 0)
    return Calibration(
        True, bits, gain, offset, 0, _wavelength(attributes),
        get("Teff_to_Tbb_c0", -50, 50), get("Teff_to_Tbb_c1", 0.8, 1.2), get("Teff_to_Tbb_c2", -1e-3, 1e-3),
        get("light_speed", 2.9e8, 3.1e8), get("Boltzmann_constant_k", 1.3e-23, 1.5e-23),
        get("Plank_constant_h", 6e-34, 7e-34),
    )  # fmt: skip


@lru_cache(maxsize=64)
def _table(constants: Calibration, conditional: bool) -> NDArray[np.float32]:
    """Physical value of each of the 65536 raw values, quality bits included; NaN where it is no datum.

    Radiance L = gain DN + offset in mW m-2 sr-1 (cm-1)-1. Infrared, with nu = 1 / wavelength in m-1:
    Teff = (h c nu / k) / ln(1 + 2 h c^2 nu^3 / (1e-5 L)), Tbb = c0 + c1 Teff + c2 Teff^2 (K).
    Visible: 100 L albedo (percent), not divided by the cosine of the solar zenith angle.
    """
    s = constants
    radiance = s.gain * np.arange(1 << s.valid_bits, dtype=np.float64) + s.offset
    with np.errstate(all="ignore"):
        if s.infrared:
            nu = 1e6 / s.wavelength
            ratio = 2 * s.planck * s.light_speed**2 * nu**3 / (radiance * 1e-5)
            effective = s.planck * s.light_speed * nu / s.boltzmann / np.log1p(np.where(radiance > 0, ratio, np.nan))
            values = s.c0 + s.c1 * effective + s.c2 * effective**2
        else:
            values = radiance * (100 * s.albedo)
        values = physical(values, "brightness_temperature" if s.infrared else "reflectance")
    table = np.full(1 << 16, np.nan, np.float32)
    table[: values.size] = values
    if conditional:
        table[1 << QUALITY_SHIFT :][: values.size] = values
    return table


def _wavelength(attributes: object) -> float:
    return hdf5.number(attributes, "channel_center_wavelength", 0.3, 20)


def _check_channel(channel: str, name: str, wavelength: float) -> None:
    expected = BANDS[channel][0]
    if name.lower() != channel:
        raise CorruptGranule(Reason.WRONG_CHANNEL, f"the key says {channel}, the file {name.lower()[:20]!r}")
    if abs(wavelength / expected - 1) > 0.04:
        raise CorruptGranule(Reason.WRONG_CHANNEL, f"{channel} at {wavelength:g} um instead of {expected:g} um")


def _time(granule: Granule, attributes: object, sector: str) -> np.datetime64:
    seconds = hdf5.number(attributes, "observation_start_time", 0, 4e9)
    return observed_at(granule, EPOCH + np.timedelta64(round(seconds), "s"), *START_SECONDS[sector])


def _grid(channel: str, attributes: object, shape: tuple[int, ...]) -> Grid:
    """CGMS geostationary grid of the file: pixels are counted from 1 and `lfac` is negative, so y falls with the line.

    x = (column - coff) 2^16 / cfac and y = (line - loff) 2^16 / lfac in degrees, times the satellite's height.
    """
    lines = int(hdf5.number(attributes, "number_of_lines", 1, 30_000))
    columns = int(hdf5.number(attributes, "number_of_columns", 1, 30_000))
    if shape != (lines, columns):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{shape} pixels where the header says {(lines, columns)}")
    equatorial = hdf5.number(attributes, "earth_equatorial_radius", 6.3e6, 6.4e6)
    polar = hdf5.number(attributes, "earth_polar_radius", 6.3e6, equatorial)
    height = hdf5.number(attributes, "nominal_satellite_height", 4.1e7, 4.3e7) - equatorial
    factors = (hdf5.number(attributes, "cfac", 1e6, 1e9), hdf5.number(attributes, "lfac", -1e9, -1e6))
    offsets = (hdf5.number(attributes, "coff", -1e5, 1e5), hdf5.number(attributes, "loff", -1e5, 1e5))
    longitude = np.rad2deg(hdf5.number(attributes, "sub_longitude", -np.pi, np.pi))
    steps = [np.deg2rad(2**16 / factor) * height for factor in factors]
    expected = SPACING_METRES[BANDS[channel][1]]
    if any(abs(abs(step) / expected - 1) > 0.01 for step in steps):
        raise CorruptGranule(Reason.WRONG_GRID, f"{abs(steps[0]):.1f} m between pixels instead of {expected:g} m")
    crs = {
        "grid_mapping_name": "geostationary",
        "perspective_point_height": height,
        "longitude_of_projection_origin": float(longitude),
        "latitude_of_projection_origin": 0.0,
        "sweep_angle_axis": "y",
        "semi_major_axis": equatorial,
        "semi_minor_axis": polar,
    }
    x = (np.arange(1, columns + 1) - offsets[0]) * steps[0]
    y = (np.arange(1, lines + 1) - offsets[1]) * steps[1]
    return Grid(x, y, crs)
