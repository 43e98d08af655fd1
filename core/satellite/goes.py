"""GOES-R ABI level 1b: one NetCDF file per band and scan of the full disk (f), CONUS (c) or a mesoscale box (m1, m2).

Layout and formulas: GOES-R Product Definition and Users' Guide, volume 3.
"""

import re
from collections.abc import Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.satellite import hdf5, keys, packed
from core.satellite.granule import CorruptGranule, Granule, Grid, Image, Kind, Pixels, Reason, latest, observed_at

combine = latest
BANDS = {f"C{band:02d}": band for band in range(1, 17)}
LAST_SOLAR_BAND = 6
# A scan is named for the slot it starts in; mesoscale boxes repeat each minute.
SLOT_MINUTES = {"f": 5, "c": 5, "m1": 1, "m2": 1}
KEY = re.compile(r"OR_ABI-L1b-Rad(F|C|M1|M2)-M\d+(C\d{2})_G\d{2}_s(\d{13})\d_e\d{14}_c\d{14}\.nc$")
GOOD, CONDITIONAL, OUTSIDE = 0, 1, 255


def prefixes(config: IngestConfig, times: TimeRange) -> list[str]:
    """One folder an hour."""
    return keys.folders(f"ABI-L1b-Rad{config.sector[:1].upper()}/%Y/%j/%H", times)


def parse(key: str, config: IngestConfig) -> list[tuple[str, np.datetime64]]:
    match = KEY.search(key)
    if match is None or match[1].lower() != config.sector or match[2] not in BANDS:
        return []
    slot = keys.moment(match[3], "%Y%j%H%M%S", SLOT_MINUTES[config.sector])
    return [(match[2], slot)] if slot is not None else []


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
        unscanned = (flags == OUTSIDE) | (usable & ~there)
        flagged = int(np.count_nonzero(~usable & ~unscanned))
        uncovered = packed.lacks_earth(unscanned, grid.window(rows, columns))
        return Pixels(values, flagged, wild, not raw.any(), uncovered=uncovered)

    return Image(granule.channel, kind(granule.channel, config), granule.time, observed, grid, read)


def _table(file: hdf5.File, radiance: hdf5.Variable, quantity: Kind) -> tuple[NDArray[np.float32], int]:
    """Physical value of each of the 65536 raw values (NaN where it is no datum), and the raw value of no data.

    L = scale raw + offset. Infrared (mW m-2 sr-1 (cm-1)-1): T = (fk2 / ln(fk1 / L + 1) - bc1) / bc2 (K).
    Visible (W m-2 sr-1 um-1): 100 kappa0 L (percent), not divided by the cosine of the solar zenith angle.
    """
    level = packed.levels(radiance)
    with np.errstate(all="ignore"):
        if quantity == "reflectance":
            values = 100 * hdf5.scalar(file, "kappa0", 0, 1) * level
        else:
            fk1, fk2 = hdf5.scalar(file, "planck_fk1", 1, 1e7), hdf5.scalar(file, "planck_fk2", 1, 1e5)
            bc1, bc2 = hdf5.scalar(file, "planck_bc1", -50, 50), hdf5.scalar(file, "planck_bc2", 0.8, 1.2)
            values = (fk2 / np.log1p(np.where(level > 0, fk1 / level, np.nan)) - bc1) / bc2
    return packed.table(values, radiance, quantity)


def _time(granule: Granule, text: str, slot_minutes: int) -> np.datetime64:
    try:
        observed = np.datetime64(datetime.fromisoformat(text.removesuffix("Z")), "s")
    except ValueError as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"time_coverage_start is {text[:40]!r}") from error
    return observed_at(granule, observed, -1, slot_minutes * 60 + 1)


def _grid(file: hdf5.File, shape: tuple[int, ...]) -> Grid:
    """The fixed grid: x and y are scan angles in radians, times the height of the perspective point."""
    crs = packed.geostationary(file, "goes_imager_projection")
    return Grid(*packed.axes(file, crs["perspective_point_height"], shape), crs)
