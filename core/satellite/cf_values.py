"""CF values: how they are packed, what their units are, and which of them are data."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from core.satellite import area, hdf5, packed
from core.satellite.granule import PHYSICAL_RANGE, UNITS, CorruptGranule, Grid, Kind, Pixels, Reason

# By units in small letters; display counts may be in any.
FACTORS: Mapping[Kind, Mapping[str, float]] = {
    "brightness_temperature": {"k": 1.0, "kelvin": 1.0},
    "reflectance": {"1": 100.0, "": 100.0, "%": 1.0, "percent": 1.0},
}


def packing(variable: hdf5.Variable) -> tuple[float, float]:
    """Scale and offset, where the values are packed."""
    attributes, absent = variable.attrs, (("scale_factor", 1.0), ("add_offset", 0.0))
    scale, offset = (packed.meant(attributes, name) if name in attributes else plain for name, plain in absent)
    return scale, offset


def judged(
    values: NDArray[np.float32], missing: NDArray[np.bool_], grid: Grid, quantity: Kind, *, raw_all_zero: bool
) -> Pixels:
    """A window without what is missing or unphysical; what is missing in space is no loss, and not counted."""
    low, high = PHYSICAL_RANGE[quantity]
    wild = ~missing & ~((values >= low) & (values <= high))
    values[missing | wild] = np.nan
    lost = packed.on_disk(missing, grid, _disk_radius(grid)) if missing.any() else 0
    return Pixels(values, lost, int(wild.sum()), raw_all_zero)


def _disk_radius(grid: Grid) -> float:
    """The radius of the Earth as a geostationary satellite sees it; other projections are taken to show it alone."""
    ellipsoid = area.crs(grid).ellipsoid
    if grid.crs["grid_mapping_name"] != "geostationary" or ellipsoid is None:
        return math.inf
    height = float(grid.crs["perspective_point_height"])
    return packed.disk_radius(height, ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre)


def unit_factor(quantity: Kind, units: str) -> float:
    """What brings values in these units to those of the archive."""
    factor = FACTORS[quantity].get(units.lower()) if quantity in FACTORS else 1.0
    if factor is None:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{quantity} in {units[:20]!r}, not in {UNITS[quantity]}")
    return factor
