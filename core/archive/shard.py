"""One frame as one Zarr v3 shard: inner chunks of 128x128, blosc-compressed, with the index at the end.

The bytes are the `sharding_indexed` codec's of the Zarr v3 specification, so any Zarr library reads them. We
encode them ourselves because one put of a whole shard is what makes a frame appear whole or not at all, on a disk
and in a bucket alike, and because a given frame must always give the same bytes.
"""

from collections.abc import Callable

import google_crc32c
import numpy as np
from numcodecs import blosc

CHUNK = 128
MISSING = 65535
COMPRESSOR, LEVEL = "zstd", 3
EMPTY = np.uint64(2**64 - 1)
HEADER_BYTES = 16

Codes = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]


def shard_shape(channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The shard of one slot: (1, C, Y, X) with Y and X rounded up to whole chunks."""
    return 1, channels, -(-height // CHUNK) * CHUNK, -(-width // CHUNK) * CHUNK


def codecs() -> dict[str, object]:
    """The sharding codec's metadata, which must say what `encode` does."""
    bytes_codec = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc_codec = {
        "name": "blosc",
        "configuration": {
            "cname": COMPRESSOR,
            "clevel": LEVEL,
            "shuffle": "bitshuffle",
            "typesize": 2,
            "blocksize": CHUNK * CHUNK * 2,
        },
    }
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, 1, CHUNK, CHUNK],
            "codecs": [bytes_codec, blosc_codec],
            "index_codecs": [bytes_codec, {"name": "crc32c"}],
            "index_location": "end",
        },
    }


def encode(codes_CYX: Codes) -> bytes:
    """The shard of one slot's codes; a chunk that is all missing is left out.

    The blosc block is the whole chunk: with several blocks, blosc's threads may order them differently each time.
    """
    channels, height, width = codes_CYX.shape
    _, _, padded_height, padded_width = shard_shape(channels, height, width)
    padded = np.full((channels, padded_height, padded_width), MISSING, "<u2")
    padded[:, :height, :width] = codes_CYX
    index = np.full((channels, padded_height // CHUNK, padded_width // CHUNK, 2), EMPTY, "<u8")
    pieces: list[bytes] = []
    offset = 0
    for c, row, column in np.ndindex(index.shape[:3]):
        tile = padded[c, row * CHUNK : (row + 1) * CHUNK, column * CHUNK : (column + 1) * CHUNK]
        if (tile == MISSING).all():
            continue
        piece = blosc.compress(np.ascontiguousarray(tile), COMPRESSOR.encode(), LEVEL, blosc.BITSHUFFLE, tile.nbytes, 2)
        index[c, row, column] = offset, len(piece)
        offset += len(piece)
        pieces.append(piece)
    table = index.tobytes()
    return b"".join([*pieces, table, google_crc32c.value(table).to_bytes(4, "little")])


class TornShardError(Exception):
    """A stored shard whose index or chunks do not check."""


def decode(
    read: Callable[[int, int | None], bytes | None],
    shape: tuple[int, int, int],
    channels: slice,
    y: slice,
    x: slice,
) -> Codes | None:
    """The codes (C', Y', X') of a window of a stored shard; None where there is no shard.

    `read(start, end)` gives a range of the object, a negative start counting from the end. Only the chunks that the
    window touches are read, in one range per row of neighbours.
    """
    _, _, padded_height, padded_width = shard_shape(*shape)
    rows, columns = padded_height // CHUNK, padded_width // CHUNK
    size = shape[0] * rows * columns * 16
    tail = read(-(size + 4), None)
    if tail is None:
        return None
    if len(tail) != size + 4 or google_crc32c.value(tail[:size]).to_bytes(4, "little") != tail[size:]:
        raise TornShardError("the shard's index does not match its checksum")
    index = np.frombuffer(tail, "<u8", size // 8).reshape(shape[0], rows, columns, 2)
    c0, c1, _ = channels.indices(shape[0])
    y0, y1, _ = y.indices(shape[1])
    x0, x1, _ = x.indices(shape[2])
    out = np.full((c1 - c0, max(y1 - y0, 0), max(x1 - x0, 0)), MISSING, np.uint16)
    if out.size == 0:
        return out
    first, last = x0 // CHUNK, (x1 - 1) // CHUNK
    tile = np.empty((CHUNK, CHUNK), "<u2")
    for c in range(c0, c1):
        for row in range(y0 // CHUNK, (y1 - 1) // CHUNK + 1):
            entries = index[c, row, first : last + 1]
            present = entries[:, 0] != EMPTY
            if not present.any():
                continue
            begin = int(entries[present, 0].min())
            end = int((entries[present, 0] + entries[present, 1]).max())
            data = read(begin, end)
            if data is None or len(data) != end - begin:
                raise TornShardError("the shard ends before its chunks do")
            pieces = memoryview(data)
            for column in range(first, last + 1):
                start, length = (int(v) for v in index[c, row, column])
                if start == int(EMPTY):
                    continue
                _decompress(pieces[start - begin : start - begin + length], tile)
                top, left = row * CHUNK, column * CHUNK
                ys = slice(max(y0, top), min(y1, top + CHUNK))
                xs = slice(max(x0, left), min(x1, left + CHUNK))
                out[c - c0, ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0] = tile[
                    ys.start - top : ys.stop - top, xs.start - left : xs.stop - left
                ]
    return out


def within(whole: bytes | None) -> Callable[[int, int | None], bytes | None]:
    """What `decode` reads with, over a shard in memory."""
    return lambda start, end: None if whole is None else whole[start:end]


def _decompress(piece: memoryview, tile: Codes) -> None:
    """Fill a tile from a compressed chunk, whose header is looked at first: it is what bounds the memory written."""
    if len(piece) < HEADER_BYTES or int.from_bytes(piece[4:8], "little") != tile.nbytes:
        raise TornShardError("a chunk is not of the size it should be")
    try:
        blosc.decompress(piece, tile)
    except (RuntimeError, ValueError) as error:
        raise TornShardError("a chunk does not decompress") from error
