"""HDF5 as it arrives from an archive: anything may be wrong with it, and all of it ends as `CorruptGranule`.

h5py is used directly, below h5netcdf: a reader needs a dozen attributes and one array, and resolving the
dimension scales of a NetCDF file costs more than decoding it.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from core.satellite import chunks
from core.satellite.granule import CorruptGranule, Reason

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Far above any imager's full disk at half a kilometre; a damaged shape must not become an allocation.
MAX_PIXELS = 30_000 * 30_000
LOOKUP_PIXELS = 1 << 15
_NUMBERS = itertools.count()


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the HDF5 library raise into `CorruptGranule`.

    Everything is caught on purpose: a flipped bit surfaces as OSError, KeyError, ValueError, MemoryError, Unicode
    errors and more, depending on where it fell.
    """
    try:
        yield
    except CorruptGranule:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        reason = Reason.TRUNCATED if "truncated" in text.lower() else Reason.DAMAGED
        raise CorruptGranule(reason, f"{what}: {text}") from error


@contextmanager
def opened(content: bytes | BinaryIO) -> Iterator[h5py.File]:
    """An HDF5 file from its bytes, or from a seekable binary file of which only the needed blocks are read."""
    file = _open(content)
    try:
        yield file
    finally:
        with guarded("closing"):
            file.close()


def _open(content: bytes | BinaryIO) -> h5py.File:
    if isinstance(content, bytes):
        start, empty = content[:64], not content
    else:
        content.seek(0)
        start = content.read(64)
        empty = not start
    if empty:
        raise CorruptGranule(Reason.TRUNCATED, "the file is empty")
    if start[: len(SIGNATURE)] != SIGNATURE:
        page = start.lstrip()[:9].lower()
        looks = "an HTML or XML page" if page.startswith((b"<!doctype", b"<html", b"<?xml")) else repr(start[:16])
        raise CorruptGranule(Reason.NOT_HDF5, f"the file starts with {looks}")
    with guarded("opening"):
        if isinstance(content, bytes):
            # The core driver reads the bytes where they lie: several times quicker than a Python file object.
            access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
            access.set_fapl_core(backing_store=False)
            access.set_file_image(content)
            # The library takes two core files of one name for the same file: each gets its own.
            return h5py.File(h5py.h5f.open(f"granule-{next(_NUMBERS)}".encode(), h5py.h5f.ACC_RDONLY, fapl=access))
        return h5py.File(content, "r")


def attribute(attributes: Any, name: str) -> Any:
    """An attribute as a scalar or text; one-element arrays are unwrapped."""
    with guarded(f"attribute {name}"):
        if name not in attributes:
            raise CorruptGranule(Reason.MISSING_ATTRIBUTE, name)
        value = attributes[name]
        if isinstance(value, np.ndarray):
            if value.size != 1:
                raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{name} has {value.size} values")
            value = value.reshape(-1)[0]
        if isinstance(value, bytes):
            value = value.decode("ascii")
        return value


def text(attributes: Any, name: str) -> str:
    return str(attribute(attributes, name)).strip("\x00 ")


def number(attributes: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within [low, high]; text that spells one will do, since some producers write it so."""
    value = attribute(attributes, name)
    try:
        result = float(value)
    except (TypeError, ValueError) as error:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{name} is {str(value)[:40]!r}, not a number") from error
    if not math.isfinite(result) or not low <= result <= high:
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{name} is {result:g}, outside {low:g} to {high:g}")
    return result


def variable(group: Any, name: str, ndim: int) -> h5py.Dataset:
    """A numeric variable with this many dimensions and a believable size."""
    with guarded(f"variable {name}"):
        if name not in group:
            raise CorruptGranule(Reason.MISSING_VARIABLE, name)
        found = group[name]
        if not isinstance(found, h5py.Dataset):
            raise CorruptGranule(Reason.MISSING_VARIABLE, f"{name} is not an array")
        if found.ndim != ndim or (ndim and not 0 < math.prod(found.shape) <= MAX_PIXELS):
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has shape {found.shape}")
        if found.dtype.kind not in "iuf":
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has type {found.dtype}")
        if math.prod(found.chunks or (1,)) > MAX_PIXELS:
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has chunks of {found.chunks}")
        return found


def scalar(group: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value of a variable without dimensions (or with a single element)."""
    with guarded(f"variable {name}"):
        if name not in group:
            raise CorruptGranule(Reason.MISSING_VARIABLE, name)
        found = group[name]
        if not isinstance(found, h5py.Dataset) or found.size != 1:
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} is not a single value")
        value = np.asarray(found[()]).reshape(-1)[0]
    return number({name: value}, name, low, high)


def read(dataset: h5py.Dataset, rows: slice, columns: slice) -> NDArray[Any]:
    """A window of a 2-D variable, raw."""
    with guarded(f"reading {dataset.name}"):
        values = chunks.read(dataset, rows, columns)
        return dataset[rows, columns] if values is None else values


def lookup(table: NDArray[np.float32], raw: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`table[raw]` in pieces that stay in the cache; numpy would first widen all indices to eight bytes."""
    values = np.empty(raw.shape, np.float32)
    step = max(1, LOOKUP_PIXELS // max(1, raw.shape[1]))
    for row in range(0, raw.shape[0], step):
        np.take(table, raw[row : row + step], out=values[row : row + step], mode="clip")
    return values
