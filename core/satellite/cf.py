"""CF frames: NetCDF files with projection coordinates, found by a key pattern.

The pattern is the end of a key with strftime codes and, where each channel has its own file, `{channel}`. Without
it every configured channel is a variable of the one file.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.satellite import area, cf_values, hdf5, keys, packed
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
)
from core.satellite.pattern import expression

combine = latest
DEFAULT_PATTERN = "%Y%m%dT%H%MZ.nc"
# How far the file's time may lie from the key's; never so far that a neighbour passes (half the cadence).
MAX_LATE_SECONDS = 900
UNIT_SECONDS = {
    name: seconds
    for names, seconds in (
        ("day days d", 86400.0),
        ("hour hours hr hrs h", 3600.0),
        ("minute minutes min mins", 60.0),
        ("second seconds sec secs s", 1.0),
        ("millisecond milliseconds msec msecs ms", 1e-3),
        ("microsecond microseconds", 1e-6),
        ("nanosecond nanoseconds", 1e-9),
    )
    for name in names.split()
}
# Units of time in small letters and with single spaces, as tolerant as udunits: 1970-1-1 0:00 +00:00.
SINCE = re.compile(
    r"([a-z]+) since (\d{1,4})-(\d{1,2})-(\d{1,2})"
    r"(?:[t ](\d{1,2})(?::(\d{1,2})(?::(\d{1,2}(?:\.\d*)?))?)?)?"
    r" ?(?:z|utc|gmt|([+-])(\d{1,2}):?(\d\d)?)?",
    re.ASCII,
)


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
    pixels = hdf5.variable(file, granule.channel, 2, more=True)
    tied = [{"x", "y"}.intersection(names) for names in pixels.dimensions]
    if any(pixels.dimensions) and tied != [{"y"}, {"x"}]:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{granule.channel} has dimensions {pixels.dimensions}"[:200])
    observed = _time(granule, file, min(MAX_LATE_SECONDS, config.cadence_minutes * 30))
    grid, flip = _grid(file, pixels)
    unpack = cf_values.unpacker(pixels)
    quantity = config.kind
    factor = cf_values.unit_factor(quantity, _text(pixels.attrs, "units"))
    height = pixels.shape[0]

    def read(rows: slice, columns: slice) -> Pixels:
        first, last, _ = rows.indices(height)
        raw = hdf5.read(pixels, slice(height - last, height - first) if flip else slice(first, last), columns)
        values, missing = unpack(raw[::-1] if flip else raw)
        values *= np.float32(factor)
        return cf_values.judged(values, missing, grid.window(rows, columns), quantity, raw_all_zero=not raw.any())

    return Image(granule.channel, quantity, granule.time, observed, grid, read)


def _text(attributes: Any, name: str) -> str:
    return hdf5.text(attributes, name) if name in attributes else ""


def _time(granule: Granule, file: Any, apart: int) -> np.datetime64:
    """The observation time in the file, which must agree with the key's within so many seconds."""
    value = hdf5.scalar(file, "time")
    units = hdf5.text(file["time"].attrs, "units")
    try:
        epoch, unit = _since(units)
        observed = np.datetime64(round(epoch + value * unit), "s")
    except (KeyError, ValueError, OverflowError) as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"time is {value:g} {units[:60]!r}") from error
    return observed_at(granule, observed, -apart, apart + 1)


def _since(units: str) -> tuple[float, float]:
    """The moment (seconds of 1970) that units count from, and how many seconds each is; `ValueError` if none."""
    found = SINCE.fullmatch(" ".join(units.lower().split())) if len(units) <= 80 else None
    if found is None or found[1] not in UNIT_SECONDS:
        raise ValueError(units[:80])
    year, month, day = (int(found[i]) for i in (2, 3, 4))
    hours, minutes, seconds, east, east_minutes = (float(found[i] or 0) for i in (5, 6, 7, 9, 10))
    zone = (east * 3600 + east_minutes * 60) * (-1 if found[8] == "-" else 1)
    midnight = datetime(year, month, day, tzinfo=UTC).timestamp()
    return midnight + hours * 3600 + minutes * 60 + seconds - zone, UNIT_SECONDS[found[1]]


def _grid(file: hdf5.File, pixels: hdf5.Variable) -> tuple[Grid, bool]:
    """Coordinates in metres, north first; the flag says that the file has south first."""
    axes = []
    for name in ("x", "y"):
        dataset = hdf5.variable(file, name, 1)
        scale, offset = cf_values.packing(dataset)
        values = dataset.values().view(packed.raw_type(dataset)) * scale + offset
        axes.append((values, _text(dataset.attrs, "units")))
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
