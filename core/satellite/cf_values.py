"""CF values: how they are packed, what their units are, and which of them are data."""

import math
from collections.abc import Callable, Mapping
from typing import Any

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


def unpacker(
    pixels: hdf5.Variable,
) -> Callable[[NDArray[Any]], tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """What makes values of raw ones, and tells which are missing: fills, NaN, and what is outside the valid range."""
    scale, offset = packing(pixels)
    raw_type = packed.raw_type(pixels)

    def meant(number: float) -> float:
        """A raw number; it is written in the file's type, too."""
        return number if raw_type == pixels.dtype else float(np.int64(number).astype(raw_type))

    fills = {
        meant(hdf5.number(pixels.attrs, name))
        for name in ("_FillValue", "missing_value")
        # xarray's default for floats, which are missing where they are NaN in any case
        if name in pixels.attrs and not (pixels.dtype.kind == "f" and pixels.attrs[name] != pixels.attrs[name])
    }
    valid = _valid(pixels.attrs)
    # Limits in floating point are no packed integers: they are of the values.
    of_values = raw_type.kind != "f" and any(isinstance(limit, float) for limit in valid.values())
    low, high = (
        default if name not in valid else valid[name] if of_values else meant(valid[name])
        for name, default in (("valid_min", -math.inf), ("valid_max", math.inf))
    )

    def unpack(raw: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        raw = raw.view(raw_type)
        missing = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, bool)
        for fill in fills:
            missing |= raw == fill
        values = raw.astype(np.float32) if (scale, offset) == (1, 0) else (raw * scale + offset).astype(np.float32)
        if valid:
            limited = values if of_values else raw
            missing |= (limited < low) | (limited > high)
        return values, missing

    return unpack


def _valid(attributes: Mapping[str, Any]) -> dict[str, float]:
    """valid_min and valid_max, as far as there are any; valid_range is both."""
    if "valid_range" in attributes:
        both = hdf5.attribute(attributes, "valid_range")
        if not isinstance(both, list) or len(both) != 2:
            raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"valid_range is {str(both)[:40]}, no two numbers")
        attributes = {"valid_min": both[0], "valid_max": both[1]}
    limits = {name: attributes[name] for name in ("valid_min", "valid_max") if name in attributes}
    for name in limits:
        hdf5.number(limits, name)
    return {name: limit if isinstance(limit, int | float) else float(limit) for name, limit in limits.items()}


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
