"""CF frames: NetCDF files with projection coordinates, found by a key pattern.

The pattern is the end of a key with strftime codes and, where each channel has its own file, `{channel}`. Without
it every configured channel is a variable of the one file.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.satellite import area, hdf5, keys, packed
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
    observed_at,
)
from core.satellite.pattern import expression

combine = latest
DEFAULT_PATTERN = "%Y%m%dT%H%MZ.nc"
# How far the file's time may lie from the key's; never so far that a neighbour passes (half the cadence).
MAX_LATE_SECONDS = 900
UNIT_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}


def prefixes(config: IngestConfig, times: TimeRange) -> list[str]:
    """The pattern's folders, spelled out for every day (or hour) where they hold the date; else the whole source.

    They end above the first that names a minute: that would be too many to ask for.
    """
    parts = config.pattern.split("/")[:-1]
    folder = "/".join(takewhile(lambda part: "%M" not in part and "%S" not in part, parts))
    if "{channel}" in folder:
        return sorted({p for c in config.channels for p in _folders(folder.replace("{channel}", c), times)})
    return _folders(folder, times)


def _folders(folder: str, times: TimeRange) -> list[str]:
    if "%" in folder:
        return keys.folders(folder, times)
    return [f"{folder}/" if folder else ""]


def parse(key: str, config: IngestConfig) -> list[tuple[str, np.datetime64]]:
    wanted, codes = expression(config.pattern or DEFAULT_PATTERN)
    match = wanted.search(key)
    if match is None:
        return []
    slot = keys.moment(" ".join(match[code.strip("%")] for code in codes), " ".join(codes))
    if slot is None:
        return []
    channel = match.groupdict().get("channel")
    return [(channel, slot)] if channel is not None else [(name, slot) for name in config.channels]


def kind(channel: str, config: IngestConfig) -> Kind:
    return config.kind


def open(granule: Granule, files: Sequence[hdf5.File], config: IngestConfig) -> Image:
    """Check one file against its key and make its variable readable by windows."""
    (file,) = files
    pixels = hdf5.variable(file, granule.channel, 2)
    observed = _time(granule, file, min(MAX_LATE_SECONDS, config.cadence_minutes * 30))
    grid, flip = _grid(file, pixels)
    scale, offset = (
        _optional(pixels.attrs, name, default) for name, default in (("scale_factor", 1), ("add_offset", 0))
    )
    fills = {
        hdf5.number(pixels.attrs, name)
        for name in ("_FillValue", "missing_value")
        # xarray's default for floats, which are missing where they are NaN in any case
        if name in pixels.attrs and not (pixels.dtype.kind == "f" and pixels.attrs[name] != pixels.attrs[name])
    }
    raw_type = packed.raw_type(pixels)
    if raw_type != pixels.dtype:  # the fills are written in the file's type, too
        fills = {float(np.int64(fill).astype(raw_type)) for fill in fills}
    quantity = config.kind
    factor = unit_factor(quantity, _text(pixels.attrs, "units"))
    low, high = PHYSICAL_RANGE[quantity]
    height = pixels.shape[0]

    def read(rows: slice, columns: slice) -> Pixels:
        first, last, _ = rows.indices(height)
        raw = hdf5.read(pixels, slice(height - last, height - first) if flip else slice(first, last), columns)
        raw = (raw[::-1] if flip else raw).view(raw_type)
        missing = np.isnan(raw) if raw.dtype.kind == "f" else np.zeros(raw.shape, bool)
        for fill in fills:
            missing |= raw == fill
        values = raw.astype(np.float32) if (scale, offset) == (1, 0) else (raw * scale + offset).astype(np.float32)
        values *= np.float32(factor)
        wild = ~missing & ~((values >= low) & (values <= high))
        values[missing | wild] = np.nan
        return Pixels(values, int(missing.sum()), int(wild.sum()), not raw.any())

    return Image(granule.channel, quantity, granule.time, observed, grid, read)


def unit_factor(quantity: Kind, units: str) -> float:
    """What brings values in these units to those of the archive."""
    if quantity == "brightness_temperature" and units not in ("K", "kelvin", "Kelvin"):
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"brightness temperature in {units[:20]!r}, not K")
    return 100.0 if quantity == "reflectance" and units in ("1", "") else 1.0


def _text(attributes: Any, name: str) -> str:
    return hdf5.text(attributes, name) if name in attributes else ""


def _optional(attributes: Any, name: str, default: float) -> float:
    return hdf5.number(attributes, name) if name in attributes else default


def _time(granule: Granule, file: Any, apart: int) -> np.datetime64:
    """The observation time in the file, which must agree with the key's within so many seconds."""
    value = hdf5.scalar(file, "time")
    units = hdf5.text(file["time"].attrs, "units")
    unit, _, since = units.partition(" since ")
    try:
        epoch = datetime.fromisoformat(since.strip().removesuffix("UTC").strip())
        epoch = epoch.replace(tzinfo=UTC) if epoch.tzinfo is None else epoch
        observed = np.datetime64(int(epoch.timestamp()) + round(value * UNIT_SECONDS[unit.strip()]), "s")
    except (KeyError, ValueError, OverflowError) as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"time is {value:g} {units[:60]!r}") from error
    return observed_at(granule, observed, -apart, apart + 1)


def _grid(file: hdf5.File, pixels: hdf5.Variable) -> tuple[Grid, bool]:
    """Coordinates in metres, north first; the flag says that the file has south first."""
    axes = []
    for name in ("x", "y"):
        dataset = hdf5.variable(file, name, 1)
        axes.append((dataset.values(), _text(dataset.attrs, "units")))
    mapping = hdf5.text(pixels.attrs, "grid_mapping")
    if mapping not in file:
        raise CorruptGranule(Reason.MISSING_VARIABLE, f"grid mapping {mapping[:40]!r}")
    found = file[mapping].attrs
    attributes = {name: hdf5.attribute(found, name) for name in found if is_crs(name)}
    return oriented(axes[0], axes[1], attributes, pixels.shape)


NOT_CRS = ("coordinates", "long_name", "CLASS", "NAME", "REFERENCE_LIST", "DIMENSION_LIST", "units", "standard_name")


def is_crs(name: str) -> bool:
    """Whether an attribute of a grid mapping says something of the projection."""
    return name not in NOT_CRS and not name.startswith("_")


def oriented(
    x: tuple[NDArray[Any], str], y: tuple[NDArray[Any], str], mapping: dict[str, Any], shape: tuple[int, ...]
) -> tuple[Grid, bool]:
    """The grid with the north first, from coordinates with their units; True where the south came first."""
    xs, ys = _metres("x", *x), _metres("y", *y)
    if tuple(shape) != (len(ys), len(xs)):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{shape} pixels on coordinates of {(len(ys), len(xs))}")
    if "grid_mapping_name" not in mapping:
        raise CorruptGranule(Reason.MISSING_ATTRIBUTE, "grid_mapping_name")
    crs = {name: value if isinstance(value, str) else _numbers(value) for name, value in mapping.items()}
    flip = bool(ys[0] < ys[-1])
    grid = Grid(xs, ys[::-1] if flip else ys, crs)
    try:
        area.crs(grid)
    except Exception as error:  # PROJ has many ways to say that this is no projection
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"grid mapping: {' '.join(str(error).split())[:120]}") from error
    return grid, flip


def _numbers(value: Any) -> float | tuple[float, ...]:
    """A parameter of a projection; some have several values, as the two parallels of a cone."""
    values = tuple(float(one) for one in np.ravel(value))
    return values[0] if len(values) == 1 else values


def _metres(name: str, raw: NDArray[Any], unit: str) -> NDArray[np.float64]:
    values = raw.astype(np.float64)
    if unit not in ("m", "metre", "meter", "meters", "km"):
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{name} in {unit[:20]!r}, not metres")
    values *= 1000 if unit == "km" else 1
    steps = np.diff(values)
    if len(values) < 2 or not np.isfinite(values).all() or abs(values).max() > 1e8:
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is not finite")
    if steps[0] == 0 or np.abs(steps / steps[0] - 1).max() > 1e-3 or (name == "x" and steps[0] < 0):
        raise CorruptGranule(Reason.WRONG_GRID, f"coordinate {name} is not evenly spaced")
    return values
