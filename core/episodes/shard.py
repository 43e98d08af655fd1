"""One episode as one Zarr v3 shard: a chunk a window, uncompressed or lz4, with the index at the end.

The bytes are those of the `sharding_indexed` codec of the Zarr v3 specification. We encode them ourselves because
one put of a whole object is what makes an episode appear whole or not at all, and the same episode must always
give the same bytes; and we decode them ourselves because nothing then stands between the disk and the batch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from core.archive.shard import TornShardError, decompress

Compression = Literal["none", "lz4"]
LEVEL = 5
ENTRY = 16  # bytes of a chunk's offset and length in the index


class DamagedShard(Exception):  # noqa: N818 - the shard is damaged, not the program
    """A stored episode that does not check."""


def metadata(episodes: int, block: Sequence[int], compression: Compression) -> dict[str, Any]:
    """The array's `zarr.json`: `block` is an episode's shape (window, frame, channel, y, x)."""
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    index_codecs = [*codecs, {"name": "crc32c"}]
    if compression == "lz4":
        size = 2 * int(np.prod(block[1:]))
        settings = {"cname": "lz4", "clevel": LEVEL, "shuffle": "bitshuffle", "typesize": 2, "blocksize": size}
        codecs.append({"name": "blosc", "configuration": settings})
    sharding = {
        "chunk_shape": [1, 1, *block[1:]],
        "codecs": codecs,
        "index_codecs": index_codecs,
        "index_location": "end",
    }
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [episodes, *block],
        "data_type": "uint16",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *block]}},
        # One flat folder: an episode is one file, not a nest of folders.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 65535,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["episode", "window", "frame", "channel", "y", "x"],
        "attributes": {},
    }


def key(episode: int) -> str:
    """Where an episode's shard lies in its array."""
    return f"c.{episode}.0.0.0.0.0"


def encode(block: NDArray[np.uint16], compression: Compression) -> bytes:
    """The shard of one episode (window, frame, channel, y, x)."""
    block = np.ascontiguousarray(block, "<u2")
    if compression == "none":
        pieces = [block.tobytes()]
        lengths = np.full(len(block), block.nbytes // len(block), "<u8")
    else:
        # The blosc block is the whole chunk: with several, threads may order them differently each time.
        size = block[0].nbytes
        pieces = [blosc.compress(window, b"lz4", LEVEL, blosc.BITSHUFFLE, size, 2) for window in block]
        lengths = np.array([len(piece) for piece in pieces], "<u8")
    index = np.stack([np.cumsum(lengths) - lengths, lengths], axis=1).astype("<u8").tobytes()
    return b"".join([*pieces, index, google_crc32c.value(index).to_bytes(4, "little")])


def decode(data: bytes, out: NDArray[np.uint16], compression: Compression) -> None:
    """Fill `out` (window, frame, channel, y, x) from a shard; raises `DamagedShard` for one that does not check.

    Only the index has a checksum. `fewcast episodes validate` compares whole shards with the catalog's digests; at each
    read that was tried, and took two thirds of the bytes/s.
    """
    tail = ENTRY * len(out) + 4
    if len(data) < tail:
        raise DamagedShard(f"it holds {len(data)} bytes, less than its index")
    index_bytes = data[-tail:-4]
    if google_crc32c.value(index_bytes).to_bytes(4, "little") != data[-4:]:
        raise DamagedShard("its index does not match its checksum")
    index = np.frombuffer(index_bytes, "<u8").reshape(-1, 2)
    for window, (start, length) in zip(out, index.astype(int).tolist(), strict=True):
        if start + length > len(data) - tail:
            raise DamagedShard("it ends before its windows do")
        if compression == "none":
            if length != window.nbytes:
                raise DamagedShard(f"a window holds {length} bytes, not {window.nbytes}")
            window[...] = np.frombuffer(data, "<u2", window.size, start).reshape(window.shape)
            continue
        try:
            decompress(memoryview(data)[start : start + length], window)
        except TornShardError as error:
            raise DamagedShard(str(error)) from error
