"""HDF5 as it arrives from an archive: anything may be wrong with it, and all of it ends as `CorruptGranule`.

The HDF5 library crashes on some damaged files, so it never sees one in this process: a child describes the file (see
`airlock.py`), and the pixels are read here, from where the description says they lie.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import FewcastError
from core.satellite import chunks
from core.satellite.granule import CorruptGranule, Reason
from core.satellite.keeper import KEEPER, Content, Memory

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# Far above any imager's full disk at half a kilometre; a damaged shape must not become an allocation.
MAX_PIXELS = 30_000 * 30_000
LOOKUP_PIXELS = 1 << 15


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the HDF5 library raise into `CorruptGranule`.

    Everything is caught on purpose: a flipped bit surfaces as OSError, KeyError, ValueError, MemoryError, Unicode
    errors and more, depending on where it fell.
    """
    try:
        yield
    except (CorruptGranule, FewcastError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        reason = Reason.TRUNCATED if "truncated" in text.lower() else Reason.DAMAGED
        raise CorruptGranule(reason, f"{what}: {text}") from error


class Variable:
    """One root variable: what the airlock told of it, and its values by windows, decoded here."""

    def __init__(self, name: str, told: dict[str, Any], content: Content) -> None:
        self.name, self.shape = name, tuple(told["shape"] or ())
        self._stored, self.attrs = np.dtype(told["dtype"]), told["attributes"]
        self.dtype = self._stored.newbyteorder("=")
        self._values, self._layout, self._content = told.get("values"), told["layout"], content
        self.dimensions: list[list[str]] = told.get("dimensions", [])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple((self._layout or {}).get("chunks", ()))

    def drop_first(self) -> None:
        """Go without the first dimension, which has a single element."""
        self.shape, self.dimensions = self.shape[1:], self.dimensions[1:]
        if self.chunks:
            deep, *chunks = self.chunks
            places = [place for first, *place in self._layout["places"] if first == 0]
            self._layout = self._layout | {"chunks": chunks, "places": places} if deep == 1 else None

    def values(self) -> NDArray[Any]:
        """All values of a scalar or a coordinate."""
        if self._values is None:
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{self.name} has shape {self.shape}")
        return np.frombuffer(base64.b64decode(self._values), self._stored).reshape(self.shape).astype(self.dtype)

    def window(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A window of a 2-D variable, raw."""
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        found = chunks.read(self._layout, self.shape, self._stored, (top, bottom, left, right), self._content)
        if found is not None:
            return found.astype(self.dtype, copy=False)
        kind, payload = KEEPER.ask({"name": self.name, "window": [top, bottom, left, right]}, self._content)
        if kind != b"W":
            raise ValueError(payload.decode(errors="replace"))
        values = np.frombuffer(payload, self._stored).reshape(bottom - top, right - left)
        return values.astype(self.dtype, copy=False)


class File(Mapping[str, Variable]):
    """The root of an HDF5 file as the airlock described it."""

    def __init__(self, told: dict[str, Any], content: Content) -> None:
        self.attrs: dict[str, Any] = told["attributes"]
        self._told, self._content = told["variables"], content

    def __getitem__(self, name: str) -> Variable:
        told = self._told[name]
        if "bad" in told:
            raise CorruptGranule(Reason.DAMAGED, f"{name}: {told['bad']}")
        return Variable(name, told, self._content)

    def __iter__(self) -> Iterator[str]:
        return iter(self._told)

    def __len__(self) -> int:
        return len(self._told)


def opened(content: bytes | Content) -> File:
    """An HDF5 file from its bytes, or from a remote one of which only the needed blocks are read."""
    held = Memory(content) if isinstance(content, bytes) else content
    start = held.piece(0, 64)
    if not start:
        raise CorruptGranule(Reason.TRUNCATED, "the file is empty")
    if start[: len(SIGNATURE)] != SIGNATURE:
        page = start.lstrip()[:9].lower()
        looks = "an HTML or XML page" if page.startswith((b"<!doctype", b"<html", b"<?xml")) else repr(start[:16])
        raise CorruptGranule(Reason.NOT_HDF5, f"the file starts with {looks}")
    with guarded("opening"):
        kind, payload = KEEPER.ask({}, held)
        if kind != b"A":
            raise ValueError(payload.decode(errors="replace"))
        return File(json.loads(payload), held)


def attribute(attributes: Mapping[str, Any], name: str) -> Any:
    """An attribute as a number, a text or a list of a few numbers; one-element arrays were unwrapped."""
    if name not in attributes:
        raise CorruptGranule(Reason.MISSING_ATTRIBUTE, name)
    value = attributes[name]
    if isinstance(value, dict):
        raise CorruptGranule(Reason.BAD_ATTRIBUTE, f"{name}: {value['bad']}")
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


def variable(file: File, name: str, ndim: int, *, more: bool = False) -> Variable:
    """A numeric variable with this many dimensions and a believable size.

    It may have more before them, of a single element each, where `more` says so: they are dropped.
    """
    if name not in file:
        raise CorruptGranule(Reason.MISSING_VARIABLE, name)
    found = file[name]
    while more and found.ndim > ndim and found.shape[0] == 1:
        found.drop_first()
    if found.ndim != ndim or (ndim and not 0 < math.prod(found.shape) <= MAX_PIXELS):
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has shape {found.shape}")
    if found.dtype.kind not in "iuf":
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has type {found.dtype}")
    if math.prod(found.chunks) > MAX_PIXELS:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} has chunks of {found.chunks}")
    return found


def scalar(file: File, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value of a variable without dimensions (or with a single element)."""
    if name not in file:
        raise CorruptGranule(Reason.MISSING_VARIABLE, name)
    values = file[name].values()
    if values.size != 1:
        raise CorruptGranule(Reason.WRONG_SHAPE, f"{name} is not a single value")
    return number({name: values.reshape(-1)[0]}, name, low, high)


def read(found: Variable, rows: slice, columns: slice) -> NDArray[Any]:
    """A window of a 2-D variable, raw."""
    with guarded(f"reading {found.name}"):
        return found.window(rows, columns)


def lookup(table: NDArray[np.float32], raw: NDArray[np.uint16]) -> NDArray[np.float32]:
    """`table[raw]` in pieces that stay in the cache; numpy would first widen all indices to eight bytes."""
    values = np.empty(raw.shape, np.float32)
    step = max(1, LOOKUP_PIXELS // max(1, raw.shape[1]))
    for row in range(0, raw.shape[0], step):
        np.take(table, raw[row : row + step], out=values[row : row + step], mode="clip")
    return values
