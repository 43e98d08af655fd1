"""One frame as one Zarr v3 shard: inner chunks of 128x128, blosc-compressed, with the index at the end.

Each chunk ends with its checksum, as the index does: most flipped bits would else decompress, to other values.

The bytes are the `sharding_indexed` codec's of the Zarr v3 specification, so any Zarr library reads them. We
encode them ourselves because one put of a whole shard is what makes a frame appear whole or not at all, on a disk
and in a bucket alike, and because a given frame must always give the same bytes.
"""

from collections.abc import Callable, Iterator

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from core.errors import FewcastError

CHUNK = 128
MISSING = 65535
COMPRESSOR, LEVEL = "zstd", 3
CHECKSUM_BYTES, SEALED = 4, 0x48674BC7
EMPTY = 2**64 - 1
# What a read of its own costs more than to read over.
NEAR_BYTES = 1 << 16
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
            "codecs": [bytes_codec, blosc_codec, {"name": "crc32c"}],
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
    rows, columns = padded_height // CHUNK, padded_width // CHUNK
    if (padded_height, padded_width) != (height, width):
        edge = ((0, 0), (0, padded_height - height), (0, padded_width - width))
        codes_CYX = np.pad(codes_CYX, edge, constant_values=MISSING)
    index = np.full((channels, rows * columns, 2), EMPTY, "<u8")
    pieces: list[bytes] = []
    offset = 0
    for image, entries in zip(codes_CYX, index, strict=True):
        tiles = image.reshape(rows, CHUNK, columns, CHUNK).swapaxes(1, 2).astype("<u2", order="C")
        for number, tile in enumerate(tiles.reshape(-1, CHUNK * CHUNK)):
            if tile[0] == MISSING and (tile == MISSING).all():
                continue
            piece = _sealed(blosc.compress(tile, COMPRESSOR.encode(), LEVEL, blosc.BITSHUFFLE, tile.nbytes, 2))
            entries[number] = offset, len(piece)
            offset += len(piece)
            pieces.append(piece)
    return b"".join([*pieces, _sealed(index.tobytes())])


def _sealed(data: bytes) -> bytes:
    """The data and their checksum, as the crc32c codec has it."""
    return data + google_crc32c.value(data).to_bytes(CHECKSUM_BYTES, "little")


def _sound(sealed: bytes) -> bool:
    """Whether data end with their checksum: the checksum of both is the same then, whatever the data are."""
    return bool(google_crc32c.value(sealed) == SEALED)


class TornShardError(Exception):
    """A stored shard whose index or chunks do not check."""


class DamagedError(FewcastError):
    """The same, told to a user: which object it is, and how to mend it."""


Read = Callable[[int, int | None], bytes | None]
"""`read(start, end)` gives a range of a shard, a negative start counting from the end; None where there is none."""


def decode(read: Read, shape: tuple[int, int, int], channels: slice, y: slice, x: slice) -> Codes | None:
    """The codes (C', Y', X') of a window of a stored shard; None where there is no shard.

    Only the chunks that the window touches are read, those that lie near each other in one range.
    """
    index = _index(read, shape)
    if index is None:
        return None
    c0, c1, _ = channels.indices(shape[0])
    y0, y1, _ = y.indices(shape[1])
    x0, x1, _ = x.indices(shape[2])
    out = np.empty((max(c1 - c0, 0), max(y1 - y0, 0), max(x1 - x0, 0)), np.uint16)
    if out.size == 0:
        return out
    top, left, bottom, right = y0 // CHUNK, x0 // CHUNK, -(-y1 // CHUNK), -(-x1 // CHUNK)
    tiles = np.empty((bottom - top, right - left, CHUNK, CHUNK), "<u2")
    mosaic = tiles.swapaxes(1, 2)  # (row of chunks, row in the chunk, column of chunks, column in the chunk)
    for window, places in zip(out, index[c0:c1, top:bottom, left:right], strict=True):
        _fill(tiles.reshape(-1, CHUNK * CHUNK), places.reshape(-1, 2).tolist(), read)
        whole = mosaic.reshape((bottom - top) * CHUNK, (right - left) * CHUNK)
        window[...] = whole[y0 - top * CHUNK : y1 - top * CHUNK, x0 - left * CHUNK : x1 - left * CHUNK]
    return out


def check(read: Read, shape: tuple[int, int, int], y: slice, x: slice) -> None:
    """Raise `TornShardError` where a chunk that a window touches does not match its checksum."""
    index = _index(read, shape)
    if index is not None:
        window = index[:, y.start // CHUNK : -(-y.stop // CHUNK), x.start // CHUNK : -(-x.stop // CHUNK)]
        for places in window.reshape(shape[0], -1, 2).tolist():
            for _ in _pieces(places, read):
                pass


def _index(read: Read, shape: tuple[int, int, int]) -> NDArray[np.uint64] | None:
    """(start, bytes) of each chunk (C, row, column) of a shard; None where there is no shard."""
    _, _, padded_height, padded_width = shard_shape(*shape)
    rows, columns = padded_height // CHUNK, padded_width // CHUNK
    size = shape[0] * rows * columns * 16
    tail = read(-(size + CHECKSUM_BYTES), None)
    if tail is None:
        return None
    if len(tail) != size + CHECKSUM_BYTES or not _sound(tail):
        raise TornShardError("the shard's index does not match its checksum")
    return np.frombuffer(tail, "<u8", size // 8).reshape(shape[0], rows, columns, 2)


def _fill(tiles: Codes, places: list[list[int]], read: Read) -> None:
    """Decompress the chunks at these places, each (start, bytes) in the shard, into their tiles."""
    if any(start == EMPTY for start, _ in places):
        tiles[...] = MISSING
    for number, piece in _pieces(places, read):
        decompress(piece, tiles[number])


def _pieces(places: list[list[int]], read: Read) -> Iterator[tuple[int, memoryview]]:
    """(number, compressed bytes) of each chunk that is there, which match their checksum.

    Plain integers and little else between two chunks: that is what threads beside this one wait for.
    """
    there = [number for number, (start, _) in enumerate(places) if start != EMPTY]
    for near in _neighbours(there, places):
        begin, end = places[near[0]][0], sum(places[near[-1]])
        data = read(begin, end)
        if data is None or len(data) != end - begin:
            raise TornShardError("the shard ends before its chunks do")
        for number in near:
            start, length = places[number]
            sealed = data[start - begin : start - begin + length]
            if not _sound(sealed):
                raise TornShardError("a chunk does not match its checksum")
            yield number, memoryview(sealed)[:-CHECKSUM_BYTES]


def _neighbours(numbers: list[int], places: list[list[int]]) -> list[list[int]]:
    """The numbers of chunks that lie so near each other that one read brings them all, in order of place."""
    runs: list[list[int]] = []
    end = 0
    for number in sorted(numbers, key=places.__getitem__):
        if runs and places[number][0] <= end + NEAR_BYTES:
            runs[-1].append(number)
        else:
            runs.append([number])
        end = sum(places[number])
    return runs


def within(whole: bytes | None) -> Read:
    """What `decode` reads with, over a shard in memory."""
    return lambda start, end: None if whole is None else whole[start:end]


def decompress(piece: memoryview, tile: Codes) -> None:
    """Fill a tile (contiguous) from a chunk of one blosc block; raises `TornShardError` where it is not that.

    Its header is looked at first (sizes of the chunk, of blosc's one block, and of the piece): blosc believes it, and
    reads or writes past the end where it lies.
    """
    sizes = np.frombuffer(piece[4:HEADER_BYTES], "<u4").tolist()
    if sizes != [tile.nbytes, tile.nbytes, len(piece)]:
        raise TornShardError("a chunk is not of the size it should be")
    try:
        blosc.decompress(piece, tile)
    except (RuntimeError, ValueError) as error:
        raise TornShardError("a chunk does not decompress") from error
