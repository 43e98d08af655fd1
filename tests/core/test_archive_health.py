"""Inspection against counts made by hand, and validation of an archive that was spoilt on purpose."""

import errno
import os
import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from core.archive import Archive, Status, inspect, quick_look, repair, shard, validate, validation
from core.archive.archive import Stored
from core.archive.objects import LocalObjects
from core.archive.validation import Fault
from core.errors import FewcastError
from core.room import Room
from core.satellite.granule import Frame, Grid, Reason

CRS = {"grid_mapping_name": "geostationary", "perspective_point_height": 35785863.0}
GRID = Grid(np.arange(40) * 2000.0, -np.arange(30) * 2000.0, CRS)
CHANNELS = {"ir105": "brightness_temperature", "vi006": "reflectance"}


def frame(slot, channel, values=None) -> Frame:
    rng = np.random.default_rng([slot, len(channel), channel == "ir105"])
    low = 220 if channel == "ir105" else 20
    values = (low + rng.uniform(0, 50, GRID.shape)).astype(np.float32) if values is None else values
    time = np.datetime64("2024-03-01T00:00", "s") + np.timedelta64(60 * slot, "m")
    return Frame(channel, CHANNELS[channel], time, time, values, GRID)


@pytest.fixture
def archive(tmp_path) -> Archive:
    """Forty hours: slots 5 to 7 are missing in ir105, 10 is corrupt, 11 absent."""
    archive = Archive.create(
        str(tmp_path / "a.zarr"),
        grid=GRID,
        channels=CHANNELS,
        origin=datetime(2024, 3, 1, tzinfo=UTC),
        cadence_minutes=60,
        years=1,
    )
    stored = []
    for slot in range(40):
        names = [n for n in CHANNELS if not (n == "ir105" and slot in (5, 6, 7, 10, 11))]
        stored += archive.write_frame(slot, [frame(slot, name) for name in names])
    archive.record(stored)
    archive.set_status(10, "ir105", Status.CORRUPT, Reason.TRUNCATED)
    archive.set_status(11, "ir105", Status.ABSENT)
    return archive


def spoil(archive: Archive, slot: int, kind: str, change) -> None:
    codes = archive.read_packed(kind, [slot], slice(None), slice(None))[0]
    archive.objects.put(f"{kind}/c/{slot}/0/0/0", shard.encode(change(codes)))


def test_inspection_counts_what_is_there(archive):
    seen = inspect(archive.url)
    assert seen.counts["ir105"] == {"unseen": 3 + 8, "complete": 35, "partial": 0, "corrupt": 1, "absent": 1}
    assert seen.counts["vi006"]["complete"] == 40
    assert seen.reasons == {"truncated": 1}
    assert [(g.channel, g.slots, str(g.first)[:13], str(g.last)[:13]) for g in seen.gaps] == [
        ("ir105", 3, "2024-03-01T05", "2024-03-01T07"),
        ("ir105", 2, "2024-03-01T10", "2024-03-01T11"),
    ]
    assert (seen.first, seen.last) == (np.datetime64("2024-03-01T00"), np.datetime64("2024-03-02T15"))
    assert seen.raw_bytes == 75 * 30 * 40 * 2
    assert seen.stored_bytes == sum(n for kind in archive.kinds for _, n in archive.objects.keys(f"{kind}/c"))
    least, median, greatest = seen.ranges["ir105"]
    assert 220 <= least < 221 < 243 < median < 247 < 269 < greatest <= 270
    assert seen.calendar["2024-03-01"].tolist() == [19 / 24, 1.0]
    for word in ("ir105", "truncated", "2024-03-01 05:00", "K"):
        assert word in seen.markdown


def test_the_calendar_has_utc_days_where_the_archive_begins_at_another_hour(tmp_path):
    archive = Archive.create(
        str(tmp_path / "a.zarr"), grid=GRID, channels=CHANNELS, origin=np.datetime64("2024-02-28T23:00"),
        cadence_minutes=60, years=1,
    )  # fmt: skip
    slots = [1 + hour for hour in (*range(23), 120, 191)]
    archive.record(one for slot in slots for one in archive.write_frame(slot, [frame(slot, name) for name in CHANNELS]))
    archive.set_status(archive.slot(np.datetime64("2024-03-08T05")), "ir105", Status.ABSENT)
    seen = inspect(archive.url)
    days = {day: share.tolist() for day, share in seen.calendar.items()}
    nothing = [0.0, 0.0]
    assert days == {
        "2024-02-29": [23 / 24] * 2, "2024-03-01": nothing, "2024-03-02": nothing, "2024-03-03": nothing,
        "2024-03-04": nothing, "2024-03-05": [1 / 24] * 2, "2024-03-06": nothing, "2024-03-07": [1 / 24] * 2,
        "2024-03-08": nothing,
    }  # fmt: skip
    lines = [line.split(" |")[0] for line in seen.markdown.partition("| day |")[2].splitlines()[2:]]
    assert lines == [
        "| 2024-02-29", "| 2024-03-01 to 2024-03-04", "| 2024-03-05", "| 2024-03-06", "| 2024-03-07", "| 2024-03-08",
    ]  # fmt: skip
    newest = inspect(archive.url, last_days=1)
    assert list(newest.calendar) == ["2024-03-07", "2024-03-08"], "one day of the archive, which begins at 23:00"


def test_the_last_days_alone_are_quick_to_inspect(archive):
    seen = inspect(archive.url, last_days=1)
    assert list(seen.calendar) == ["2024-03-02"]
    assert seen.counts["ir105"] == {"unseen": 8, "complete": 16, "partial": 0, "corrupt": 0, "absent": 0}
    exact = sum(len(archive.objects.get(archive.key(kind, s)) or b"") for kind in archive.kinds for s in range(24, 40))
    assert seen.stored_bytes == exact  # sixteen slots: the sample is all of them
    assert seen.gaps == ()
    assert "its newest 1 recorded days alone" in seen.markdown
    assert "recorded days" not in inspect(archive.url).markdown


def test_a_page_of_large_frames_takes_little_memory_and_misses_no_extreme(tmp_path):
    """Read at once, two dozen frames took 317 MB here."""
    grid = Grid(np.arange(1000) * 2000.0, -np.arange(1100) * 2000.0, CRS)
    settings = {"grid": grid, "channels": CHANNELS, "origin": np.datetime64("2024-03-01"), "cadence_minutes": 60}
    archive = Archive.create(str(tmp_path / "a.zarr"), years=1, **settings)
    values = np.tile(np.linspace(230, 250, 1000, dtype=np.float32), (1100, 1))
    values[713, 501], values[1009, 3] = 190, 300
    for slot in range(24):
        one = replace(frame(slot, "ir105", values), grid=grid)
        archive.record(archive.write_frame(slot, one))
    tracemalloc.start()
    seen = inspect(archive.url)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert seen.ranges["ir105"] == pytest.approx((190, 240, 300), abs=0.02)
    assert quick_look(archive.url).axes[0].images[0].get_array().shape == (550, 500)


def test_an_empty_archive_can_be_inspected(tmp_path):
    url = str(tmp_path / "a.zarr")
    Archive.create(url, grid=GRID, channels=CHANNELS, origin=np.datetime64("2024-01-01"), cadence_minutes=10, years=1)
    assert "nothing yet" in inspect(url).markdown
    assert validate(url).problems == ()
    assert len(quick_look(url).axes) == 2


def test_the_quick_look_shows_the_newest_frame(archive, tmp_path):
    figure = quick_look(archive.url)
    image = figure.axes[0].images[0].get_array()
    assert np.allclose(image, frame(39, "ir105").values, atol=0.006)
    figure.savefig(tmp_path / "look.png")
    assert (tmp_path / "look.png").stat().st_size > 2000


def test_validation_finds_each_fault_and_repair_takes_it_out_of_service(archive):
    assert validate(archive.url).problems == ()
    assert validate(archive.url).frames == 75
    spoil(archive, 3, "brightness_temperature", lambda codes: np.full_like(codes, 25000))
    spoil(archive, 20, "reflectance", lambda _: archive.read_packed("reflectance", [19], slice(None), slice(None))[0])
    spoil(archive, 25, "brightness_temperature", lambda codes: np.where(codes > 26500, 60000, codes))
    archive.objects.delete("brightness_temperature/c/28/0/0/0")
    whole = archive.objects.get("brightness_temperature/c/30/0/0/0")
    assert whole is not None
    archive.objects.put("brightness_temperature/c/30/0/0/0", whole[:200] + b"\xff" + whole[201:-1])
    archive.record([Stored(35, "ir105", Status.UNSEEN)])
    found = validate(archive.url)
    expected = [
        (3, "ir105", Fault.CONSTANT), (20, "vi006", Fault.FROZEN), (25, "ir105", Fault.OUT_OF_RANGE),
        (28, "ir105", Fault.LOST), (30, "ir105", Fault.TORN),
    ]  # fmt: skip
    assert [(p.slot, p.channel, p.fault) for p in found.problems] == expected
    assert "still served" in found.markdown
    assert repair(archive.url).repaired
    assert validate(archive.url).problems == ()
    status = archive.status
    assert [int(status[slot, CHANNELS_ORDER.index(name)]) for slot, name, _ in expected] == [3, 3, 3, 0, 0]
    assert archive.reason[20, 1] == Reason.FROZEN
    assert np.isnan(archive.read("brightness_temperature", [3])).all()
    assert not np.isnan(archive.read("reflectance", [3])).all()


def test_slots_are_looked_at_as_many_at_a_time_as_fit_in_memory(archive, monkeypatch):
    at_work, most, real = 0, 0, validation._judge

    def judge(*arguments):
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.002)
        at_work -= 1
        return real(*arguments)

    monkeypatch.setattr(validation, "_judge", judge)
    assert validate(archive.url).frames == 75
    assert most > 1
    most = 0
    height, width = archive.shape
    monkeypatch.setattr(validation, "ROOM", Room(height * width * 12))
    assert validate(archive.url).frames == 75
    assert most == 1
    monkeypatch.setattr(validation, "ROOM", Room(height * width * 23))  # a bucket's reader has the codes twice
    most = 0
    assert validate(archive.url).frames == 75
    assert most == 1


def test_a_flipped_bit_is_damage_and_repair_cures_it(archive):
    for slot in (3, 20, 30):
        whole = archive.objects.get(archive.key("reflectance", slot))
        middle = (len(whole) - 20) // 2
        torn = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        archive.objects.put(archive.key("reflectance", slot), torn)
    found = validate(archive.url)
    assert [(p.slot, p.channel, p.fault) for p in found.problems] == [(s, "vi006", Fault.TORN) for s in (3, 20, 30)]
    repair(archive.url)
    assert validate(archive.url).problems == ()
    assert archive.status[[3, 20, 30], 1].tolist() == [Status.UNSEEN] * 3


def test_one_damaged_frame_is_counted_and_the_rest_inspected(archive):
    whole = inspect(archive.url, last_days=1)
    archive.objects.put("brightness_temperature/c/39/0/0/0", b"rubbish")
    seen = inspect(archive.url, last_days=1)
    assert (whole.unreadable, seen.unreadable) == (0, 1)
    assert "1 of the sampled frames are damaged" in seen.markdown
    assert "sampled frames" not in whole.markdown
    assert seen.ranges["ir105"][0] >= whole.ranges["ir105"][0] >= 220
    assert "ir105: the newest frame is damaged" in [axis.get_title() for axis in quick_look(archive.url).axes]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "no space left for the archive"), (errno.EROFS, "cannot be written: found")]
)
def test_a_repair_on_a_full_or_read_only_disk_is_one_clear_line(archive, monkeypatch, number, message):
    archive.objects.put("brightness_temperature/c/30/0/0/0", b"rubbish")

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(LocalObjects, "put", refuse)
    with pytest.raises(FewcastError, match=message) as caught:
        repair(archive.url)
    assert "\n" not in str(caught.value)


def test_a_repaired_slot_can_be_filled_again(archive):
    archive.objects.put("brightness_temperature/c/30/0/0/0", b"rubbish")
    repair(archive.url)
    archive.record(archive.write_frame(30, frame(30, "ir105")))
    assert validate(archive.url).problems == ()
    assert archive.status[30].tolist() == [Status.COMPLETE, Status.COMPLETE]


CHANNELS_ORDER = list(CHANNELS)
