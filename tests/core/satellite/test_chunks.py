import itertools
import struct
import zlib

import h5py
import numpy as np
import pytest

from core.satellite import hdf5
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
def test_windows_equal_what_was_written(dtype, options):
    values = VALUES.astype(dtype)
    opened = hdf5.opened(file(values, chunks=(16, 16), compression="gzip", **options))
    for rows, columns in WINDOWS:
        np.testing.assert_array_equal(hdf5.read(opened["v"], rows, columns), values[rows, columns])


@pytest.mark.parametrize("options", [{}, {"chunks": (16, 16)}, {"chunks": (16, 16), "compression": "lzf"}])
def test_other_layouts_too(options):
    opened = hdf5.opened(file(VALUES, **options))
    for rows, columns in WINDOWS:
        np.testing.assert_array_equal(hdf5.read(opened["v"], rows, columns), VALUES[rows, columns])


def test_a_shape_that_is_not_what_lies_there_is_damage():
    """Fewer columns than were written would read each row from the middle of another."""
    values = VALUES.astype("<u2")
    written = file(values)
    damaged = written.replace(struct.pack("<QQ", 37, 53), struct.pack("<QQ", 37, 52))
    assert damaged != written
    opened = hdf5.opened(damaged)
    with pytest.raises(CorruptGranule) as caught:
        hdf5.read(opened["v"], slice(None), slice(None))
    assert caught.value.reason is Reason.DAMAGED


def image(write):
    with h5py.File("made", "w", driver="core", backing_store=False) as made:
        write(made)
        made.flush()
        return bytes(made.id.get_file_image())


def test_chunks_that_were_never_written_hold_the_fill_value():
    def write(made):
        made.create_dataset("v", (32, 32), "u2", chunks=(16, 16), compression="gzip", fillvalue=7)
        made["v"][:16] = 3

    opened = hdf5.opened(image(write))
    assert hdf5.read(opened["v"], slice(None), slice(None)).sum() == 16 * 32 * 10


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
    def write(made):
        made.create_dataset("v", (16, 16), "u2", chunks=(16, 16), compression="gzip")
        made["v"].id.write_direct_chunk((0, 0), packed)

    with pytest.raises(CorruptGranule) as caught:
        hdf5.read(hdf5.opened(image(write))["v"], slice(None), slice(None))
    assert caught.value.reason is Reason.DAMAGED
