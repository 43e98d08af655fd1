"""Our shard bytes, read back by other Zarr implementations."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr

from core.episodes import shard

BLOCK = (3, 4, 2, 11, 13)


def some(seed: int) -> np.ndarray:
    codes = np.random.default_rng(seed).integers(0, 65536, BLOCK, dtype=np.uint16)
    codes[1] = 65535
    return codes


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_other_readers_see_the_same_episodes(tmp_path: Path, compression: Any) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps(shard.metadata(3, BLOCK, compression)))
    for episode in (0, 2):  # and 1 is missing
        (tmp_path / shard.key(episode)).write_bytes(shard.encode(some(episode), compression))
    expected = np.stack([some(0), np.full(BLOCK, 65535, np.uint16), some(2)])
    assert np.array_equal(zarr.open_array(str(tmp_path), mode="r")[:], expected)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path)}}
    assert np.array_equal(tensorstore.open(spec).result().read().result(), expected)


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_decode_inverts_encode_and_encode_is_a_function(compression: Any) -> None:
    out = np.empty(BLOCK, np.uint16)
    shard.decode(shard.encode(some(5), compression), out, compression)
    assert np.array_equal(out, some(5))
    turned = np.asfortranarray(some(5))
    assert shard.encode(turned, compression) == shard.encode(some(5), compression)


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_every_truncation_and_a_damaged_index_are_noticed(compression: Any) -> None:
    data = shard.encode(some(6), compression)
    out = np.empty(BLOCK, np.uint16)
    for length in [0, 1, 10, *range(50, len(data), 97), len(data) - 1]:
        with pytest.raises(shard.DamagedShard):
            shard.decode(data[:length], out, compression)
    damaged = bytearray(data)
    damaged[-20] ^= 4
    with pytest.raises(shard.DamagedShard, match="index"):
        shard.decode(bytes(damaged), out, compression)


@pytest.mark.parametrize("place", [*range(4, 16)])
def test_a_window_whose_header_lies_about_its_size_is_damaged(place: int) -> None:
    """blosc believes those sizes, and some lies crash it."""
    data, out = bytearray(shard.encode(some(7), "lz4")), np.empty(BLOCK, np.uint16)
    for bit in range(8):
        data[place] ^= 1 << bit
        with pytest.raises(shard.DamagedShard, match="not of the size"):
            shard.decode(bytes(data), out, "lz4")
        data[place] ^= 1 << bit
