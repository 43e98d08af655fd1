"""What an archive looks like: its variables, attributes and codes (CF-1.11 on Zarr v3)."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from core.archive.objects import Objects
from core.archive.packing import PACKINGS
from core.archive.shard import CHUNK, MISSING, codecs, shard_shape
from core.satellite.granule import PHYSICAL_RANGE, UNITS, Grid, Kind, Reason

if TYPE_CHECKING:
    import zarr

VERSION = 2
NO_TIME = np.iinfo(np.int64).min


class Status(IntEnum):
    """What is known of one slot of one channel; only those of `SERVED` are ever served as data."""

    UNSEEN = 0
    COMPLETE = 1
    PARTIAL = 2
    CORRUPT = 3
    ABSENT = 4


# What is data: all that a reader ever gets.
SERVED = (Status.COMPLETE, Status.PARTIAL)


def template(
    *,
    grid: Grid,
    channels: Mapping[str, Kind],
    origin: datetime,
    cadence_minutes: int,
    years: int,
    made_from: dict[str, Any],
) -> dict[str, bytes]:
    """Every metadata and coordinate object of an empty archive by key; the root `zarr.json` comes last.

    `channels` maps names to kinds, in order. The time axis is regular, `years` long, and never resized.
    """
    import zarr  # a quarter of a second that a run which finds nothing new can do without
    from zarr.storage import MemoryStore

    day = slots_per_day(cadence_minutes)
    slots = axis_slots(years, cadence_minutes)
    height, width = grid.shape
    names = list(channels)
    store = MemoryStore()
    root = zarr.create_group(store, zarr_format=3)
    root.attrs.update(
        Conventions="CF-1.11",
        title="fewcast archive: satellite frames on a regular time axis",
        fewcast_archive_version=VERSION,
        cadence_minutes=cadence_minutes,
        channels=names,
        kinds=[channels[name] for name in names],
        made_from=made_from,
    )
    begin = origin.strftime("%Y-%m-%d %H:%M:%S")
    axis = {"units": f"minutes since {begin}", "calendar": "proleptic_gregorian", "standard_name": "time", "axis": "T"}
    _write(root, "time", np.arange(slots, dtype=np.int32) * np.int32(cadence_minutes), ("time",), (slots,), axis)
    crs = {key: _plain(value) for key, value in grid.crs.items()}
    _write(root, "crs", np.int32(0), (), (), crs)
    geographic = grid.crs.get("grid_mapping_name") == "latitude_longitude"
    for name, values in (("y", grid.y), ("x", grid.x)):
        attributes = {"standard_name": f"projection_{name}_coordinate", "units": "m", "axis": name.upper()}
        if geographic:
            attributes |= (
                {"standard_name": "latitude", "units": "degrees_north"}
                if name == "y"
                else {"standard_name": "longitude", "units": "degrees_east"}
            )
        _write(root, name, np.asarray(values, np.float64), (name,), (len(values),), attributes)
    _write_names(root, "channel", names, "Channels of status, reason and out_of_range")
    by_day = {"shape": (slots, len(names)), "chunks": (day, len(names)), "dimension_names": ("time", "channel")}
    _declare(root, "status", np.uint8, 0, by_day, _flags(Status) | {"long_name": "What is known of a slot"})
    _declare(root, "reason", np.uint8, 0, by_day, _flags(Reason) | {"long_name": "Why a slot is not complete"})
    counted = {"long_name": "Pixels made missing because their value was outside the valid range", "units": "1"}
    _declare(root, "out_of_range", np.uint32, 0, by_day, counted)
    _declare(
        root,
        "observation_time",
        np.int64,
        int(NO_TIME),
        {"shape": (slots,), "chunks": (day,), "dimension_names": ("time",)},
        {
            "long_name": "Time of the slot's earliest observation",
            "units": "milliseconds since 1970-01-01",
            "calendar": "proleptic_gregorian",
            "_FillValue": int(NO_TIME),
        },
    )
    for kind in dict.fromkeys(channels.values()):
        members = [name for name in names if channels[name] == kind]
        _write_names(root, f"{kind}_channel", members, f"Channels of {kind}")
        _declare_images(root, kind, slots, len(members), height, width)
    with warnings.catch_warnings():
        # One GET opens the whole store; readers that do not know consolidation find each array's own metadata.
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)
        zarr.consolidate_metadata(store)
    objects = {key: value.to_bytes() for key, value in store._store_dict.items()}
    objects["zarr.json"] = objects.pop("zarr.json")
    return objects


def coordinates(objects: Objects) -> dict[str, bytes]:
    """The metadata and coordinates that every use of an archive needs, fetched once."""
    keys = ["zarr.json", *(f"{name}/zarr.json" for name in ("time", "x", "y", "crs")), "time/c/0", "x/c/0", "y/c/0"]
    found = {key: objects.get(key) for key in keys}
    return {key: data for key, data in found.items() if data is not None}


def metadata(made: Mapping[str, bytes], name: str = "") -> dict[str, Any]:
    """The `zarr.json` of a variable, or of the root."""
    found: dict[str, Any] = json.loads(made[f"{name}/zarr.json".lstrip("/")])
    return found


def values(made: Mapping[str, bytes], name: str) -> NDArray[Any]:
    """All values of a coordinate."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    buffer = default_buffer_prototype().buffer
    store = MemoryStore({key: buffer.from_bytes(data) for key, data in made.items()})
    return np.asarray(zarr.open_array(store, path=name, mode="r", zarr_format=3)[:])


def digest(made: Mapping[str, bytes]) -> str:
    """Hex digest of what an archive was made with: its metadata and its coordinates."""
    total = hashlib.blake2b(digest_size=16)
    for key, value in sorted(made.items()):
        total.update(key.encode() + value)
    return total.hexdigest()


def slots_per_day(cadence_minutes: int) -> int:
    """Slots of one status chunk: a day's, or as many as begin within one where the cadence does not divide it."""
    return -(-24 * 60 // cadence_minutes)


def axis_slots(years: int, cadence_minutes: int) -> int:
    """Slots of a time axis so many years long, a whole number of status chunks."""
    return round(years * 365.25) * slots_per_day(cadence_minutes)


def _declare_images(root: "zarr.Group", kind: Kind, slots: int, channels: int, height: int, width: int) -> None:
    spec = PACKINGS[kind]
    low, high = (round((limit - spec.offset) / spec.scale) for limit in PHYSICAL_RANGE[kind])
    attributes: dict[str, Any] = {
        "long_name": spec.long_name,
        "units": UNITS[kind],
        "_FillValue": MISSING,
        "scale_factor": spec.scale,
        "add_offset": spec.offset,
        "valid_range": [low, min(high, MISSING - 1)],
        "grid_mapping": "crs",
    }
    if spec.standard_name:
        attributes["standard_name"] = spec.standard_name
    shard = shard_shape(channels, height, width)
    sharding: dict[str, Any] = codecs()
    inner = sharding["configuration"]["codecs"]
    array = root.create_array(
        kind,
        shape=(slots, channels, height, width),
        dtype=np.uint16,
        chunks=(1, 1, CHUNK, CHUNK),
        shards=shard,
        compressors=inner[1:],
        fill_value=MISSING,
        dimension_names=("time", f"{kind}_channel", "y", "x"),
    )
    array.attrs.update(attributes)


def _write(
    root: "zarr.Group", name: str, values: Any, dims: tuple[str, ...], chunks: tuple[int, ...], attrs: dict[str, Any]
) -> None:
    array = root.create_array(
        name, shape=np.shape(values), dtype=np.asarray(values).dtype, chunks=chunks or "auto", dimension_names=dims
    )
    array[...] = values
    array.attrs.update(attrs)


def _write_names(root: "zarr.Group", name: str, names: list[str], long_name: str) -> None:
    array = root.create_array(name, shape=(len(names),), dtype="string", chunks=(len(names),), dimension_names=(name,))
    array[:] = np.array(names, dtype=object)
    array.attrs.update(long_name=long_name)


def _declare(
    root: "zarr.Group", name: str, dtype: type, fill: int, shape: Mapping[str, Any], attributes: dict[str, Any]
) -> None:
    """An array whose chunks are plain bytes, so that a day can be replaced by one put."""
    array = root.create_array(name, dtype=dtype, fill_value=fill, compressors=None, **shape)
    array.attrs.update(attributes)


def _flags(codes: type[IntEnum]) -> dict[str, Any]:
    members = list(codes)
    return {
        "flag_values": [int(member) for member in members],
        "flag_meanings": " ".join(member.name.lower() for member in members),
    }


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value.tolist() if isinstance(value, np.ndarray) else value
