"""The archive against other Zarr libraries, brute force, and writers that die."""

import errno
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
import tensorstore
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from core.archive import Archive, Status, shard
from core.archive.lock import exclusive
from core.archive.objects import LocalObjects
from core.archive.packing import pack, unpack
from core.errors import FewcastError
from core.satellite.granule import Frame, Grid, Reason

ORIGIN = datetime(2024, 3, 1, 0, 15, tzinfo=UTC)
CRS = {
    "grid_mapping_name": "geostationary",
    "perspective_point_height": 35785863.0,
    "longitude_of_projection_origin": 128.2,
    "sweep_angle_axis": "y",
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.3,
}
ELSEWHERE = CRS | {"longitude_of_projection_origin": 75.0}
HEIGHT, WIDTH = 150, 290
GRID = Grid(np.arange(WIDTH) * 2004.0 - 3e5, 4e6 - np.arange(HEIGHT) * 2004.0, CRS)
CHANNELS = {"ir105": "brightness_temperature", "vi006": "reflectance", "wv063": "brightness_temperature"}
TIME = np.datetime64("2024-03-02T03:45", "s")


def make(url, **changes) -> Archive:
    settings = {"grid": GRID, "channels": CHANNELS, "origin": ORIGIN, "cadence_minutes": 30, "years": 1} | changes
    return Archive.create(str(url), **settings)


def frame(channel="ir105", *, seed=0, time=TIME, holes=True) -> Frame:
    rng = np.random.default_rng([seed, *channel.encode()])
    span = (200, 310) if CHANNELS[channel] == "brightness_temperature" else (0, 100)
    values = rng.uniform(*span, (HEIGHT, WIDTH)).astype(np.float32)
    if holes:
        values[rng.uniform(size=values.shape) < 0.05] = np.nan
        values[:130, :140] = np.nan
    reason = Reason.BAD_QUALITY if holes else Reason.NONE
    return Frame(channel, CHANNELS[channel], time, time + np.timedelta64(31, "s"), values, GRID, reason)


@pytest.fixture
def archive(tmp_path) -> Archive:
    return make(tmp_path / "a.zarr")


def put(archive: Archive, *frames: Frame) -> None:
    for one in frames:
        archive.record(archive.write_frame(archive.slot(one.time), [one]))


def test_plain_xarray_reads_times_values_and_flags_without_a_warning(archive):
    ir, vi = frame("ir105"), frame("vi006", holes=False)
    archive.record(archive.write_frame(archive.slot(TIME), [ir, vi]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xr.open_zarr(archive.url)
    slot = opened.sel(time=TIME)
    got = slot.brightness_temperature.sel(brightness_temperature_channel="ir105").values
    assert np.array_equal(np.isnan(got), np.isnan(ir.values))
    assert np.nanmax(np.abs(got - ir.values)) <= 0.0051
    assert np.nanmax(np.abs(slot.reflectance.values[0] - vi.values)) <= 0.0051
    assert slot.status.values.tolist() == [Status.PARTIAL, Status.COMPLETE, Status.UNSEEN]
    assert slot.observation_time.values == ir.observation_time
    assert opened.observation_time.isel(time=0).isnull()
    meanings = dict(zip(opened.reason.flag_values, opened.reason.flag_meanings.split(), strict=True))
    assert meanings[int(slot.reason.values[0])] == "bad_quality"
    assert opened.time.values[0] == np.datetime64("2024-03-01T00:15")
    assert np.array_equal(opened.time.values, archive.times)
    crs = opened[opened.brightness_temperature.grid_mapping].attrs
    assert crs["perspective_point_height"] == CRS["perspective_point_height"]


@pytest.mark.parametrize("reader", ["zarr", "zarrs", "tensorstore"])
def test_any_zarr_library_reads_the_shards(archive, reader):
    put(archive, frame("ir105"), frame("wv063", seed=1))
    slot = archive.slot(TIME)
    ours = archive.read_packed("brightness_temperature", [slot], slice(None), slice(None))[0]
    if reader == "tensorstore":
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{archive.url}/brightness_temperature"}}
        theirs = tensorstore.open(spec).result()[slot].read().result()
    else:
        pipeline = {"zarr": "zarr.core.codec_pipeline.BatchedCodecPipeline", "zarrs": "zarrs.ZarrsCodecPipeline"}
        with zarr.config.set({"codec_pipeline.path": pipeline[reader]}):
            theirs = zarr.open_group(archive.url, mode="r")["brightness_temperature"][slot]
    assert (ours != shard.MISSING).sum() > 30_000
    assert np.array_equal(ours, theirs)


def test_an_all_missing_chunk_takes_no_room(archive):
    put(archive, frame("ir105"))
    slot = archive.slot(TIME)
    index = archive.objects.get(f"brightness_temperature/c/{slot}/0/0/0", -(2 * 2 * 3 * 16 + 4))
    entries = np.frombuffer(index[:-4], "<u8").reshape(2, 2, 3, 2)
    assert (entries[0, 0, 0] == shard.EMPTY).all()
    assert (entries[1] == shard.EMPTY).all()
    assert (entries[0, :, 1:, 0] != shard.EMPTY).all()


@given(
    values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30),
    kind=st.sampled_from(["brightness_temperature", "reflectance", "display_count", "solar_elevation"]),
)
def test_values_are_rounded_or_missing_and_never_wrapped(values, kind):
    low, high = {"brightness_temperature": (130, 430), "reflectance": (-10, 200), "display_count": (0, 65534)}.get(
        kind, (-90, 90)
    )
    given_values = np.array(values, np.float32)
    codes, lost = pack(given_values, kind)
    back = unpack(codes, kind)
    inside = (given_values >= low) & (given_values <= high)
    assert lost == (~inside).sum()
    assert np.array_equal(np.isnan(back), ~inside)
    half_a_step = 0.5 if kind == "display_count" else 0.005
    assert np.all(np.abs(back - given_values)[inside] <= half_a_step * 1.001 + 1e-5 * np.abs(given_values[inside]))


def test_values_out_of_range_are_counted_and_missing(archive):
    odd = frame("ir105", holes=False)
    odd.values[3, 5:9] = 900, -5, np.inf, 0
    put(archive, odd)
    slot = archive.slot(TIME)
    assert archive.out_of_range[slot].tolist() == [4, 0, 0]
    assert archive.reason[slot, 0] == Reason.OUT_OF_RANGE
    assert np.isnan(archive.read("brightness_temperature", [slot])[0, 0, 3, 5:9]).all()


def test_only_complete_and_partial_are_served(archive):
    put(archive, frame("ir105"))
    slot = archive.slot(TIME)
    for status in (Status.UNSEEN, Status.CORRUPT, Status.ABSENT):
        archive.set_status(slot, "ir105", status)
        assert np.isnan(archive.read("brightness_temperature", [slot])).all()
    archive.set_status(slot, "ir105", Status.COMPLETE)
    assert not np.isnan(archive.read("brightness_temperature", [slot])).all()


def test_a_late_channel_joins_and_a_republished_one_replaces(archive):
    slot = archive.slot(TIME)
    put(archive, frame("ir105"), frame("wv063", seed=1), frame("ir105", seed=2))
    got = archive.read("brightness_temperature", [slot])[0]
    for position, expected in ((0, frame("ir105", seed=2)), (1, frame("wv063", seed=1))):
        assert np.nanmax(np.abs(got[position] - expected.values)) <= 0.0051


def test_a_frame_written_but_never_recorded_is_not_carried_along(archive):
    slot = archive.slot(TIME)
    archive.write_frame(slot, frame("ir105"))
    put(archive, frame("wv063"))
    codes = archive.read_packed("brightness_temperature", [slot], slice(None), slice(None))
    assert (codes[0, 0] == shard.MISSING).all()


def test_the_same_frames_give_the_same_bytes_in_any_order(tmp_path):
    one, two = make(tmp_path / "1.zarr"), make(tmp_path / "2.zarr")
    frames = [frame("ir105"), frame("vi006"), frame("wv063", seed=4)]
    put(one, *frames)
    two.record(two.write_frame(two.slot(TIME), frames[::-1]))
    slot = one.slot(TIME)
    assert {k: one.objects.get(k) for k, _ in one.objects.keys("")} == {
        k: two.objects.get(k) for k, _ in two.objects.keys("")
    }
    digest = one.digest([slot])
    assert digest == two.digest([slot])
    put(one, frame("ir105", seed=9))
    assert one.digest([slot]) != digest


def test_slots_have_a_phase_and_only_exact_times(archive):
    assert archive.slot(datetime(2024, 3, 1, 1, 15, tzinfo=UTC)) == 2
    assert archive.times[archive.slot(TIME)] == TIME
    for wrong in ("2024-03-01T01:00", "2024-02-29T23:45", "2026-01-01T00:15", "2024-03-01T00:15:30"):
        with pytest.raises(ValueError, match="no slot"):
            archive.slot(np.datetime64(wrong))


def test_an_archive_half_made_does_not_exist(tmp_path, monkeypatch):
    real = LocalObjects.put

    def die_at_the_end(self, key, data):
        if key == "zarr.json":
            raise KeyboardInterrupt
        real(self, key, data)

    monkeypatch.setattr(LocalObjects, "put", die_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a.zarr")
    monkeypatch.undo()
    assert not Archive.exists(str(tmp_path / "a.zarr"))
    with pytest.raises(FewcastError, match=r"no archive at .*run `fewcast ingest`"):
        Archive.open(str(tmp_path / "a.zarr"))
    assert make(tmp_path / "a.zarr").shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": Grid(GRID.x[:-1], GRID.y, CRS)}, "150x290 pixels there, 150x289 asked for"),
        ({"grid": Grid(GRID.x + 900, GRID.y, CRS)}, "pixels 900 m apart"),
        ({"grid": Grid(GRID.x, GRID.y, ELSEWHERE)}, "longitude_of_projection_origin 128.2 there, .* 75.0 asked for"),
        ({"channels": {"ir133": "brightness_temperature"}}, "no channel ir133"),
        ({"channels": {"ir105": "reflectance"}}, "another kind of ir105: found brightness_temperature there"),
        ({"cadence_minutes": 20}, "another time axis"),
        ({"origin": datetime(2024, 3, 1, tzinfo=UTC)}, "another time axis"),
    ],
)
def test_an_archive_of_another_kind_is_refused(archive, changes, message):
    with pytest.raises(FewcastError, match=message):
        make(archive.url, **changes)


def test_an_archive_of_another_version_is_refused(archive):
    root = archive.objects.get("zarr.json").replace(b'"fewcast_archive_version": 2', b'"fewcast_archive_version": 1')
    archive.objects.put("zarr.json", root)
    with pytest.raises(FewcastError, match=r"not an archive of version 2: found .*version 1.*ingest anew"):
        Archive.open(archive.url)


def test_a_failed_put_leaves_the_old_object_and_no_scratch(tmp_path, monkeypatch):
    objects = LocalObjects(str(tmp_path))
    objects.put("a/b", b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        objects.put("a/b", b"new")
    monkeypatch.undo()
    assert objects.get("a/b") == b"old"
    assert list(objects.keys(".partial")) == []


def test_two_writers_exclude_each_other_and_a_killed_one_lets_go(tmp_path):
    code = (
        "import sys, time; from core.archive.lock import exclusive; from core.archive.objects import LocalObjects\n"
        "with exclusive(LocalObjects(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    objects = LocalObjects(str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FewcastError, match=f"process {holder.pid} on"), exclusive(objects):
            pass
    finally:
        holder.kill()
        holder.wait()
    with exclusive(objects):
        pass


def test_an_archive_travels_to_a_worker_as_its_address(archive):
    put(archive, frame("ir105"))
    there = pickle.loads(pickle.dumps(archive))
    assert there.url == archive.url
    assert there.writable
    assert there.digest([archive.slot(TIME)]) == archive.digest([archive.slot(TIME)])
    with pytest.raises(ValueError, match="for reading only"):
        Archive.open(archive.url).set_status(0, "ir105", Status.ABSENT)


def test_a_worker_knows_an_archive_from_one_made_anew_at_its_url(archive):
    pickle.loads(pickle.dumps(archive))
    shutil.rmtree(archive.url)
    anew = make(archive.url, channels=dict(reversed(CHANNELS.items())), grid=Grid(GRID.x + 900, GRID.y, CRS))
    there = pickle.loads(pickle.dumps(anew))
    assert there.channels == tuple(reversed(CHANNELS))
    assert there.grid.x[0] == GRID.x[0] + 900
    anew._made = "of a third"
    with pytest.raises(FewcastError, match="was replaced on the way"):
        pickle.loads(pickle.dumps(anew))
