"""Compressed chunks taken raw from HDF5 and inflated here, since the library inflates under one global lock.

zlib lets other threads run meanwhile, so a thread pool that ingests many granules uses all cores.
"""

import zlib
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

DEFLATE, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
# A deflated chunk is at most this much longer than what it holds.
OVERHEAD_BYTES = 4096


def filters(dataset: h5py.Dataset) -> list[int]:
    """The dataset's filters in the order in which they were applied."""
    created = dataset.id.get_create_plist()
    return [created.get_filter(i)[0] for i in range(created.get_nfilters())]


def read(dataset: h5py.Dataset, rows: slice, columns: slice) -> NDArray[Any] | None:
    """A window of a 2-D dataset; None where its layout is not plain deflated chunks, all of them written.

    Raises `ValueError` or `zlib.error` for chunks that do not inflate to their size.
    """
    applied = filters(dataset)
    if dataset.chunks is None or applied not in ([DEFLATE], [SHUFFLE, DEFLATE]):
        return None
    height, width = dataset.chunks
    expected = height * width * dataset.dtype.itemsize
    (top, bottom, _), (left, right, _) = rows.indices(dataset.shape[0]), columns.indices(dataset.shape[1])
    values = np.empty((bottom - top, right - left), dataset.dtype)
    for row in range(top // height * height, bottom, height):
        for column in range(left // width * width, right, width):
            place = dataset.id.get_chunk_info_by_coord((row, column))
            if place.byte_offset is None or place.filter_mask:
                return None
            if place.size > expected + OVERHEAD_BYTES:
                raise ValueError(f"a chunk of {place.size} bytes where at most {expected} were packed")
            packed = dataset.id.read_direct_chunk((row, column))[1]
            chunk = _inflated(packed, expected, SHUFFLE in applied, dataset.dtype).reshape(height, width)
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
