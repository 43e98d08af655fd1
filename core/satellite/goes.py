"""GOES-R ABI level 1b: one NetCDF file per band and scan of the full disk (f), CONUS (c) or a mesoscale box (m1, m2).

Layout and formulas: GOES-R Product Definition and Users' Guide, volume 3.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.satellite import hdf5
from core.satellite.granule import (
    PHYSICAL_RANGE,
    CorruptGranule,
    Granule,
    Grid,
    Image,
    Kind,
    Pixels,
    Reason,
    latest,
)

combine = latest
BANDS = {f"C{band:02d}": band for band in range(1, 17)}
LAST_SOLAR_BAND = 6
# A scan is named for the slot it starts in; mesoscale boxes repeat each minute.
SLOT_MINUTES = {"f": 5, "c": 5, "m1": 1, "m2": 1}
KEY = re.compile(r"OR_ABI-L1b-Rad(F|C|M1|M2)-M\d+(C\d{2})_G\d{2}_s(\d{13})\d_e\d{14}_c\d{14}\.nc$")
GOOD, CONDITIONAL, OUTSIDE = 0, 1, 255


def prefixes(config: IngestConfig, times: TimeRange) -> list[str]:
    """One folder an hour."""
    hour = times.start.replace(minute=0, second=0, microsecond=0)
    found = []
    while hour < times.end:
        found.append(f"ABI-L1b-Rad{config.sector[:1].upper()}/{hour:%Y/%j/%H}/")
        hour += timedelta(hours=1)
    return found


def parse(key: str, config: IngestConfig) -> list[tuple[str, np.datetime64]]:
    match = KEY.search(key)
    if match is None or match[1].lower() != config.sector or match[2] not in BANDS:
        return []
    try:
        start = datetime.strptime(match[3], "%Y%j%H%M%S")
    except ValueError:
        return []
    slot = SLOT_MINUTES[config.sector]
    start = start.replace(minute=start.minute // slot * slot, second=0)
    return [(match[2], np.datetime64(start, "s"))]


def kind(channel: str, config: IngestConfig) -> Kind:
    if channel not in BANDS:
        raise ValueError(f"{channel!r} is no ABI band; there are {', '.join(BANDS)}")
    return "reflectance" if BANDS[channel] <= LAST_SOLAR_BAND else "brightness_temperature"


def open(granule: Granule, files: Sequence[hdf5.File], config: IngestConfig) -> Image:
    """Check one file against its key and make it readable by windows."""
    (file,) = files
    radiance, quality = hdf5.variable(file, "Rad", 2), hdf5.variable(file, "DQF", 2)
    if radiance.dtype.itemsize != 2 or radiance.dtype.kind not in "iu" or quality.dtype.itemsize != 1:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"Rad is {radiance.dtype} and DQF {quality.dtype}")
    if radiance.shape != quality.shape:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"Rad {radiance.shape} and DQF {quality.shape} differ")
    band = int(hdf5.scalar(file, "band_id", 0, 99))
    if band != BANDS[granule.channel]:
        raise CorruptGranule(Reason.WRONG_CHANNEL, f"the key says {granule.channel}, the file C{band:02d}")
    observed = _time(granule, hdf5.text(file.attrs, "time_coverage_start"), SLOT_MINUTES[config.sector])
    grid = _grid(file, radiance.shape)
    table, fill = _table(file, radiance, kind(granule.channel, config))

    def read(rows: slice, columns: slice) -> Pixels:
        raw = hdf5.read(radiance, rows, columns).view(np.uint16)
        flags = hdf5.read(quality, rows, columns).view(np.uint8)
        values = hdf5.lookup(table, raw)
        usable = flags <= (CONDITIONAL if config.conditional else GOOD)
        there = raw != fill
        wild = int(np.count_nonzero(np.isnan(values) & usable & there))
        values[~usable] = np.nan
        flagged = int(np.count_nonzero(~usable & (flags != OUTSIDE)))
        return Pixels(values, flagged, wild, not raw.any())

    return Image(granule.channel, kind(granule.channel, config), granule.time, observed, grid, read)


def _table(file: hdf5.File, radiance: hdf5.Variable, quantity: Kind) -> tuple[NDArray[np.float32], int]:
    """Physical value of each of the 65536 raw values (NaN where it is no datum), and the raw value of no data.

    L = scale raw + offset. Infrared (mW m-2 sr-1 (cm-1)-1): T = (fk2 / ln(fk1 / L + 1) - bc1) / bc2 (K).
    Visible (W m-2 sr-1 um-1): 100 kappa0 L (percent), not divided by the cosine of the solar zenith angle.
    """
    fill = int(hdf5.number(radiance.attrs, "_FillValue", -(1 << 15), (1 << 16) - 1)) & 0xFFFF
    level = hdf5.number(radiance.attrs, "scale_factor", 0, 1e3) * levels(radiance)
    level = level + hdf5.number(radiance.attrs, "add_offset", -1e4, 1e4)
    with np.errstate(all="ignore"):
        if quantity == "reflectance":
            values = 100 * hdf5.scalar(file, "kappa0", 0, 1) * level
        else:
            fk1, fk2 = hdf5.scalar(file, "planck_fk1", 1, 1e7), hdf5.scalar(file, "planck_fk2", 1, 1e5)
            bc1, bc2 = hdf5.scalar(file, "planck_bc1", -50, 50), hdf5.scalar(file, "planck_bc2", 0.8, 1.2)
            values = (fk2 / np.log1p(np.where(level > 0, fk1 / level, np.nan)) - bc1) / bc2
    low, high = PHYSICAL_RANGE[quantity]
    values = np.where((values >= low) & (values <= high), values, np.nan)
    values[fill] = np.nan
    return values.astype(np.float32), fill


def levels(packed: hdf5.Variable) -> NDArray[np.float64]:
    """The number each raw 16-bit pattern stands for: unsigned where the type or `_Unsigned` says so."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    unsigned = packed.dtype.kind == "u"
    if not unsigned and "_Unsigned" in packed.attrs:
        unsigned = hdf5.text(packed.attrs, "_Unsigned").lower() == "true"
    return (patterns if unsigned else patterns.view(np.int16)).astype(np.float64)


def _time(granule: Granule, text: str, slot_minutes: int) -> np.datetime64:
    try:
        observed = np.datetime64(datetime.fromisoformat(text.removesuffix("Z")), "s")
    except ValueError as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"time_coverage_start is {text[:40]!r}") from error
    late = int((observed - granule.time).astype(np.int64))
    if not -1 <= late < slot_minutes * 60 + 1:
        raise CorruptGranule(Reason.WRONG_TIME, f"the key says {granule.time}, the file {observed}")
    return observed


def _grid(file: hdf5.File, shape: tuple[int, ...]) -> Grid:
    """The fixed grid: x and y are scan angles in radians, times the height of the perspective point."""
    crs = geostationary(file, "goes_imager_projection")
    x, y = (unpacked(file, name, crs["perspective_point_height"]) for name in ("x", "y"))
    if shape != (len(y), len(x)):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{shape} pixels on coordinates of {(len(y), len(x))}")
    if x[0] >= x[-1] or y[0] <= y[-1]:
        raise CorruptGranule(Reason.WRONG_GRID, "x does not rise or y does not fall")
    return Grid(x, y, crs)


def geostationary(file: hdf5.File, name: str) -> dict[str, Any]:
    """The CF attributes of a geostationary projection that matter, checked."""
    if name not in file:
        raise CorruptGranule(Reason.MISSING_VARIABLE, name)
    attributes = file[name].attrs
    sweep = hdf5.text(attributes, "sweep_angle_axis")
    if sweep not in ("x", "y"):
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"sweep_angle_axis is {sweep[:20]!r}")
    return {
        "grid_mapping_name": "geostationary",
        "perspective_point_height": hdf5.number(attributes, "perspective_point_height", 3.4e7, 3.7e7),
        "longitude_of_projection_origin": hdf5.number(attributes, "longitude_of_projection_origin", -180, 360),
        "latitude_of_projection_origin": hdf5.number(attributes, "latitude_of_projection_origin", -1e-3, 1e-3),
        "sweep_angle_axis": sweep,
        "semi_major_axis": hdf5.number(attributes, "semi_major_axis", 6.3e6, 6.4e6),
        "semi_minor_axis": hdf5.number(attributes, "semi_minor_axis", 6.3e6, 6.4e6),
    }


def unpacked(file: hdf5.File, name: str, metres: float) -> NDArray[np.float64]:
    """A packed coordinate in metres, where one of its units is `metres`."""
    packed = hdf5.variable(file, name, 1)
    raw = packed.values().astype(np.float64)
    scale, offset = (_meant(packed.attrs, key) for key in ("scale_factor", "add_offset"))
    values = (raw * scale + offset) * metres
    steps = np.diff(values)
    if len(values) < 2 or not np.isfinite(values).all() or np.abs(values).max() > 1e7:
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is off the disk")
    if steps[0] == 0 or np.abs(steps / steps[0] - 1).max() > 1e-3:
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is not evenly spaced")
    return values


def _meant(attributes: Any, name: str) -> float:
    """A packing constant; stored in single precision, it is the shortest decimal that rounds to it that was meant."""
    number = hdf5.number(attributes, name)
    single = np.float32(number)
    return float(str(single)) if float(single) == number else number
