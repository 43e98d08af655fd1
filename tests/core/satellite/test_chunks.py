import itertools
import zlib

import h5py
import numpy as np
import pytest

from core.satellite import chunks, hdf5
from core.satellite.granule import CorruptGranule, Reason


def file(values, **options):
    with h5py.File(f"chunks-{id(values)}", "w", driver="core", backing_store=False) as made:
        made.create_dataset("v", data=values, track_times=False, **options)
        made.flush()
        return bytes(made.id.get_file_image())


VALUES = np.random.default_rng(0).integers(0, 9000, (37, 53))
WINDOWS = list(itertools.product([slice(None), slice(5, 6), slice(16, 33)], [slice(None), slice(0, 16), slice(17, 53)]))


@pytest.mark.parametrize("dtype", ["<u2", ">i2", "u1", "<f4"])
@pytest.mark.parametrize("options", [{"shuffle": True}, {}, {"fletcher32": True}])
def test_windows_equal_the_librarys_own(dtype, options):
    values = VALUES.astype(dtype)
    with hdf5.opened(file(values, chunks=(16, 16), compression="gzip", **options)) as opened:
        for rows, columns in WINDOWS:
            direct = chunks.read(opened["v"], rows, columns)
            assert (direct is None) == ("fletcher32" in options)
            if direct is not None:
                np.testing.assert_array_equal(direct, values[rows, columns])
            np.testing.assert_array_equal(hdf5.read(opened["v"], rows, columns), values[rows, columns])


def test_other_layouts_are_left_to_the_library():
    for options in ({}, {"chunks": (16, 16)}, {"chunks": (16, 16), "compression": "lzf"}):
        with hdf5.opened(file(VALUES, **options)) as opened:
            assert chunks.read(opened["v"], slice(None), slice(None)) is None
    with h5py.File("gaps", "w", driver="core", backing_store=False) as made:
        made.create_dataset("v", (32, 32), "u2", chunks=(16, 16), compression="gzip", fillvalue=7)
        made["v"][:16] = 3
        assert chunks.read(made["v"], slice(None), slice(None)) is None
        assert hdf5.read(made["v"], slice(None), slice(None)).sum() == 16 * 32 * 10


@pytest.mark.parametrize(
    "packed",
    [
        zlib.compress(b"\0" * 511),
        zlib.compress(b"\0" * 513),
        zlib.compress(bytes(10_000_000)),
        zlib.compress(bytes(512))[:-2],
        zlib.compress(bytes(512))[:-1] + b"\x55",
        b"not zlib at all",
    ],
)
def test_a_chunk_of_another_size_or_a_wrong_checksum_is_damage(packed):
    with h5py.File("bad", "w", driver="core", backing_store=False) as made:
        made.create_dataset("v", (16, 16), "u2", chunks=(16, 16), compression="gzip")
        made["v"].id.write_direct_chunk((0, 0), packed)
        with pytest.raises(CorruptGranule) as caught:
            hdf5.read(made["v"], slice(None), slice(None))
    assert caught.value.reason is Reason.DAMAGED
