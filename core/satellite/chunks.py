"""Pixels from where they lie in the file: contiguous, or in deflated chunks.

zlib lets other threads run while it inflates, so a thread pool that ingests many granules uses all cores.
"""

import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.satellite.keeper import Content, Memory

DEFLATE, SHUFFLE = 1, 2
# A deflated chunk is at most this much longer than what it holds.
OVERHEAD_BYTES = 4096


def read(
    layout: dict[str, Any] | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    window: tuple[int, int, int, int],
    content: Content,
) -> NDArray[Any] | None:
    """The window (top, bottom, left, right); None where the layout is left to the HDF5 library.

    Raises `ValueError` or `zlib.error` for bytes that are not there, a shape that is not that of what lies there, and
    chunks that do not inflate to their size.
    """
    if layout is None:
        return None
    if "offset" in layout:
        if layout["bytes"] != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{layout['bytes']} bytes of pixels, which are no {shape} of {dtype}")
        return _contiguous(layout["offset"], shape, dtype, window, content)
    if layout["filters"] not in ([DEFLATE], [SHUFFLE, DEFLATE]):
        return None
    return _chunked(layout, dtype, window, content)


def _contiguous(
    offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], window: tuple[int, int, int, int], content: Content
) -> NDArray[Any]:
    top, bottom, left, right = window
    width = shape[1] * dtype.itemsize
    start, count = offset + top * width, (bottom - top) * width
    if offset < 0 or start + count > content.size:
        raise ValueError("the file is truncated: its pixels lie beyond its end")
    if isinstance(content, Memory):
        rows = np.frombuffer(content.content, dtype, (bottom - top) * shape[1], start)
    else:
        rows = np.frombuffer(content.piece(start, count), dtype)
    return rows.reshape(bottom - top, shape[1])[:, left:right]


def _chunked(
    layout: dict[str, Any], dtype: np.dtype[Any], window: tuple[int, int, int, int], content: Content
) -> NDArray[Any] | None:
    top, bottom, left, right = window
    height, width = layout["chunks"]
    expected = height * width * dtype.itemsize
    places = {(row, column): rest for row, column, *rest in layout["places"]}
    values = np.empty((bottom - top, right - left), dtype)
    for row in range(top // height * height, bottom, height):
        for column in range(left // width * width, right, width):
            offset, size, mask = places.get((row, column), (None, 0, 0))
            if offset is None or mask:
                return None
            if not 0 < size <= expected + OVERHEAD_BYTES or offset < 0:
                raise ValueError(f"a chunk of {size} bytes at {offset}, where at most {expected} were packed")
            if offset + size > content.size:
                raise ValueError("the file is truncated: a chunk lies beyond its end")
            chunk = _inflated(content.piece(offset, size), expected, layout["filters"][0] == SHUFFLE, dtype)
            chunk = chunk.reshape(height, width)
            y0, y1 = max(row, top), min(row + height, bottom)
            x0, x1 = max(column, left), min(column + width, right)
            values[y0 - top : y1 - top, x0 - left : x1 - left] = chunk[y0 - row : y1 - row, x0 - column : x1 - column]
    return values


def _inflated(packed: bytes, expected: int, shuffled: bool, dtype: np.dtype[Any]) -> NDArray[Any]:
    """One chunk's values; never more memory than the chunk's own size, whatever the bytes pretend."""
    inflate = zlib.decompressobj()
    data = inflate.decompress(packed, expected)
    if len(data) != expected or not (inflate.eof or _ends(inflate)):
        raise ValueError(f"a chunk inflates to {len(data)} bytes or more instead of {expected}")
    if shuffled:
        planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, -1)
        return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    return np.frombuffer(data, dtype)


def _ends(inflate: Any) -> bool:
    """Whether nothing but the checksum is left, which is verified on the way."""
    return not inflate.decompress(inflate.unconsumed_tail, 1) and bool(inflate.eof)
