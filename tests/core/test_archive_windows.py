"""Windows of the archive by both decoders: of sound shards, of damaged ones, and of one that is being replaced."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zarrs.pipeline import CodecPipelineImpl

from core.archive import Archive, shard
from core.archive.packing import pack
from core.archive.windows import Windows
from core.errors import FewcastError
from tests.core.test_archive import TIME, frame, make, put


@pytest.fixture
def archive(tmp_path) -> Archive:
    return make(tmp_path / "a.zarr")


_window = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda ends: slice(min(ends), max(ends)))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    archive = make(tmp_path_factory.mktemp("filled") / "a.zarr")
    put(archive, frame("ir105"), frame("wv063", seed=1))
    slot = archive.slot(TIME)
    return archive, slot, archive.read_packed("brightness_temperature", [slot], slice(None), slice(None))


@settings(max_examples=60, deadline=None)
@given(y=_window, x=_window)
def test_a_window_is_that_part_of_the_whole(filled, y, x):
    archive, slot, whole = filled
    window = archive.read_packed("brightness_temperature", [slot - 1, slot], y, x)
    assert (window[0] == shard.MISSING).all()
    assert np.array_equal(window[1], whole[0, :, y, x])


@settings(max_examples=30, deadline=None)
@given(y=_window, x=_window)
def test_the_native_reader_and_our_own_give_the_same_codes(filled, y, x):
    archive, slot, _ = filled
    rows, columns = (slice(*part.indices(length)) for part, length in zip((y, x), archive.shape, strict=True))
    whole = shard.within(archive.objects.get(archive.key("brightness_temperature", slot)))
    ours = shard.decode(whole, (2, *archive.shape), slice(None), rows, columns)
    out = np.empty((2, *ours.shape), np.uint16)
    if not out.size:
        return
    keys = [archive.key("brightness_temperature", number) for number in (slot, slot + 1)]
    assert Windows(archive.objects).read("brightness_temperature", keys, rows, columns, out) == []
    assert np.array_equal(out[0], ours)
    assert (out[1] == shard.MISSING).all()


def test_a_frame_replaced_while_it_is_read_is_never_a_mixture(archive, monkeypatch):
    old, new = frame("ir105", holes=False), frame("ir105", seed=1, holes=False)
    slot, kind = archive.slot(TIME), "brightness_temperature"
    put(archive, old)

    class Between:
        """Half of the frame is read before it is replaced and half after, as chunks of one shard can be."""

        def __init__(self, *arguments, **options):
            self.real = CodecPipelineImpl(*arguments, **options)

        def retrieve_chunks_and_apply_index(self, items, out):
            self.real.retrieve_chunks_and_apply_index(items, out)
            before = out[..., :128].copy()
            put(archive, new)
            self.real.retrieve_chunks_and_apply_index(items, out)
            out[..., :128] = before

    monkeypatch.setattr("zarrs.pipeline.CodecPipelineImpl", Between)
    got = Archive.open(archive.url).read_packed(kind, [slot - 1, slot], slice(None), slice(None))
    assert np.array_equal(got[1, 0], pack(new.values, kind)[0])
    assert (got[0] == shard.MISSING).all()


def test_one_damaged_frame_among_many_is_named_and_costs_no_other(archive):
    put(archive, frame("ir105"), frame("ir105", time=TIME + np.timedelta64(30, "m")))
    slot, kind = archive.slot(TIME), "brightness_temperature"
    whole = archive.objects.get(archive.key(kind, slot + 1))
    archive.objects.put(archive.key(kind, slot + 1), whole[:4] + b"\xff" + whole[5:])
    with pytest.raises(FewcastError, match=f"{kind}/c/{slot + 1}/0/0/0 of the archive .* is damaged"):
        archive.read(kind, [slot, slot + 1])
    assert np.isfinite(archive.read(kind, [slot])).any()


def test_a_flipped_bit_is_never_served(archive):
    put(archive, frame("ir105", holes=False), frame("ir105", time=TIME + np.timedelta64(30, "m")))
    slot, kind, shape, every = archive.slot(TIME), "brightness_temperature", (2, *archive.shape), slice(None)
    sound = archive.read_packed(kind, [slot], every, every)
    whole = archive.objects.get(archive.key(kind, slot))
    start, length = (int(n) for n in shard._index(shard.within(whole), shape)[0, 0, 1])
    touching = [(every, every), (slice(0, 128), slice(128, 256)), (slice(5, 9), slice(127, 129))]
    for at in range(start + 100, start + length, length // 20):
        torn = whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :]
        archive.objects.put(archive.key(kind, slot), torn)
        for window in touching:
            with pytest.raises(shard.TornShardError, match="checksum"):  # as from a bucket
                shard.decode(shard.within(torn), shape, every, *window)
            for slots in ([slot], [slot, slot + 1]):
                with pytest.raises(FewcastError, match=f"/{slot}/0/0/0 of the archive .* does not match its checksum"):
                    archive.read(kind, slots, *window)
        beside = archive.read_packed(kind, [slot], every, slice(0, 128))
        assert np.array_equal(beside, sound[..., :128])


@pytest.mark.parametrize("place", [*range(4, 16), 18, 19])
def test_a_header_that_lies_never_reaches_blosc(place):
    """blosc believes the sizes in a chunk's header, and some lies crash it."""
    rng = np.random.default_rng(0)
    codes = rng.normal(20_000, 40, (1, 128, 128)).astype(np.uint16)
    whole = shard.encode(codes)
    piece, index = bytearray(whole[:-24]), whole[-20:]
    for bit in range(8):
        piece[place] ^= 1 << bit
        lie = shard._sealed(bytes(piece)) + index
        with pytest.raises(shard.TornShardError, match=r"not of the size|not decompress"):
            shard.decode(shard.within(lie), codes.shape, slice(None), slice(None), slice(None))
        piece[place] ^= 1 << bit


def test_a_window_with_steps_is_refused(filled):
    archive, slot, _ = filled
    with pytest.raises(ValueError, match="no steps"):
        archive.read("brightness_temperature", [slot], slice(0, 100, 2))


def test_a_torn_shard_is_never_data(archive):
    put(archive, frame("ir105"))
    slot = archive.slot(TIME)
    path = f"{archive.url}/brightness_temperature/c/{slot}/0/0/0"
    whole = archive.objects.get(f"brightness_temperature/c/{slot}/0/0/0")
    for torn in (whole[:-1], whole[:1000], b"", whole[:-40] + b"\x01" + whole[-39:]):
        with open(path, "wb") as file:
            file.write(torn)
        with pytest.raises(FewcastError, match=r"is damaged: found .*fewcast archive repair"):
            archive.read("brightness_temperature", [slot])
