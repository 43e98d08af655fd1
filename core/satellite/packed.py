"""What readers share: packed integers, geostationary disks, and the scan angles and grids of GOES-R and ISatSS."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.satellite import hdf5
from core.satellite.granule import CorruptGranule, Grid, Kind, Reason, physical


def raw_type(packed: hdf5.Variable) -> np.dtype[Any]:
    """The type that the raw values are meant in: that of the file, but unsigned where `_Unsigned` says so."""
    if packed.dtype.kind != "i" or "_Unsigned" not in packed.attrs:
        return packed.dtype
    unsigned = hdf5.text(packed.attrs, "_Unsigned").lower() == "true"
    return np.dtype(f"u{packed.dtype.itemsize}") if unsigned else packed.dtype


def levels(packed: hdf5.Variable) -> NDArray[np.float64]:
    """scale raw + offset of each of the 65536 raw patterns."""
    raw = np.arange(1 << 16, dtype=np.uint16).view(raw_type(packed)).astype(np.float64)
    return hdf5.number(packed.attrs, "scale_factor", 0, 1e3) * raw + hdf5.number(packed.attrs, "add_offset", -1e4, 1e4)


def table(values: NDArray[np.float64], packed: hdf5.Variable, quantity: Kind) -> tuple[NDArray[np.float32], int]:
    """The physical values of all raw patterns, NaN where one is no datum, and the raw value of no data."""
    fill = int(hdf5.number(packed.attrs, "_FillValue", -(1 << 15), (1 << 16) - 1)) & 0xFFFF
    values = physical(values, quantity)
    values[fill] = np.nan
    return values.astype(np.float32), fill


def geostationary(file: hdf5.File, name: str) -> dict[str, Any]:
    """The CF attributes of a geostationary projection that matter, checked."""
    if name not in file:
        raise CorruptGranule(Reason.MISSING_VARIABLE, name)
    attributes = file[name].attrs
    sweep = hdf5.text(attributes, "sweep_angle_axis")
    if sweep not in ("x", "y"):
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"sweep_angle_axis is {sweep[:20]!r}")
    semi_major = hdf5.number(attributes, "semi_major_axis", 6.3e6, 6.4e6)
    return {
        "grid_mapping_name": "geostationary",
        "perspective_point_height": hdf5.number(attributes, "perspective_point_height", 3.4e7, 3.7e7),
        "longitude_of_projection_origin": hdf5.number(attributes, "longitude_of_projection_origin", -180, 360),
        "latitude_of_projection_origin": hdf5.number(attributes, "latitude_of_projection_origin", -1e-3, 1e-3),
        "sweep_angle_axis": sweep,
        "semi_major_axis": semi_major,
        "semi_minor_axis": hdf5.number(attributes, "semi_minor_axis", 6.3e6, semi_major),
    }


def lacks_earth(gap: NDArray[np.bool_], grid: Grid) -> bool:
    """Whether pixels (Y, X) that were not seen lie on the Earth."""
    axes = (grid.crs[name] for name in ("perspective_point_height", "semi_major_axis", "semi_minor_axis"))
    return on_disk(gap, grid, disk_radius(*axes)) > 0


def disk_radius(height: float, semi_major: float, semi_minor: float) -> float:
    """The radius (m) of the circle in a geostationary satellite's disk that meets its poles."""
    return height * math.asin(semi_minor / (height + semi_major))


def on_disk(gap: NDArray[np.bool_], grid: Grid, radius: float) -> int:
    """How many of these pixels (Y, X) lie in a circle around the projection's origin."""
    half = np.sqrt(np.maximum(radius**2 - grid.y**2, 0))
    spans = zip(np.searchsorted(grid.x, -half), np.searchsorted(grid.x, half), strict=True)
    return sum(int(np.count_nonzero(row[first:last])) for row, (first, last) in zip(gap, spans, strict=True))


def axes(file: hdf5.File, metres: float, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y of an image of this shape in metres, where one of their units is `metres`; x rises and y falls."""
    x, y = (_axis(file, name, metres) for name in ("x", "y"))
    if shape != (len(y), len(x)):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{shape} pixels on coordinates of {(len(y), len(x))}")
    if x[0] >= x[-1] or y[0] <= y[-1]:
        raise CorruptGranule(Reason.WRONG_GRID, "x does not rise or y does not fall")
    return x, y


def _axis(file: hdf5.File, name: str, metres: float) -> NDArray[np.float64]:
    packed = hdf5.variable(file, name, 1)
    raw = packed.values().astype(np.float64)
    scale, offset = (meant(packed.attrs, key) for key in ("scale_factor", "add_offset"))
    values = (raw * scale + offset) * metres
    steps = np.diff(values)
    if len(values) < 2 or not np.isfinite(values).all() or np.abs(values).max() > 1e7:
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is off the disk")
    if steps[0] == 0 or np.abs(steps / steps[0] - 1).max() > 1e-3:
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is not evenly spaced")
    return values


def meant(attributes: Any, name: str) -> float:
    """A packing constant; stored in single precision, it is the shortest decimal that rounds to it that was meant."""
    number = hdf5.number(attributes, name)
    single = np.float32(number)
    return float(str(single)) if float(single) == number else number
