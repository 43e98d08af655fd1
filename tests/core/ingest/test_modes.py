"""What each mode looks at, and when."""

import shutil
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest

from core.archive import Archive, Status, repair, validate
from core.config import IngestConfig
from core.errors import FewcastError
from core.ingest import ingest
from core.report import Silent
from core.satellite import simulator, source
from core.satellite.granule import Reason, UnavailableGranule
from tests.core.ingest.world import NOW, SLOTS, config, contents, path, run


def latest(settings: IngestConfig, now: datetime):
    config = settings.model_copy(update={"mode": "latest", "lookback_hours": 1.0, "catch_up_hours": 5.0})
    summary = ingest(config, clock=lambda: now)
    archive = Archive.open(settings.archive)
    return summary, [str(t)[8:16] for t in archive.times[np.flatnonzero((archive.status == Status.COMPLETE).all(1))]]


def test_latest_begins_near_and_catches_up_since_the_last_that_was_served(root):
    settings = config(root)
    _, slots = latest(settings, datetime(2024, 3, 1, 22, 10, tzinfo=UTC))
    assert slots == ["01T21:30", "01T22:00"]
    hole = path(root, "ir105", "2024-03-02T00:00")
    content = hole.read_bytes()
    hole.unlink()
    _, slots = latest(settings, datetime(2024, 3, 2, 0, 40, tzinfo=UTC))
    assert slots[2:] == ["01T22:30", "01T23:00", "01T23:30", "02T00:30"]
    hole.write_bytes(content)
    summary, slots = latest(settings, datetime(2024, 3, 2, 0, 50, tzinfo=UTC))
    assert summary.written == 1
    assert "02T00:00" in slots
    summary, slots = latest(settings, datetime(2024, 3, 2, 8, 0, tzinfo=UTC))
    assert slots[slots.index("02T00:30") + 1] == "02T03:00", "an outage longer than catch_up_hours is left to backfill"


def at(hour, minute=10, day=1):
    return datetime(2024, 3, day, hour, minute, tzinfo=UTC)


def test_what_a_run_could_not_fetch_is_fetched_however_old_it_is(root, monkeypatch):
    """The granule of 23:00 is out of reach when a run catches up, and long past the lookback when it is there again."""
    settings = config(root)
    latest(settings, at(22))
    real, lost = source.read_frame, np.datetime64("2024-03-01T23:00", "s")

    def read_frame(granule, *more):
        if granule.time == lost and granule.channel == "vi004":
            raise UnavailableGranule(Reason.UNREACHABLE, granule.url)
        return real(granule, *more)

    monkeypatch.setattr(source, "read_frame", read_frame)
    summary, slots = latest(settings, at(1, day=2))
    assert (summary.unavailable, "01T23:00" in slots, slots[-1]) == (1, False, "02T01:00")
    monkeypatch.undo()
    summary, slots = latest(settings, at(3, day=2))
    assert summary.written == 1 + 2 * 4
    assert len(slots) == 12, "from 21:30 to 03:00"


def test_what_a_killed_run_left_behind_what_it_recorded_is_read(root):
    settings = config(root)
    latest(settings, at(22))
    latest(settings, at(2, day=2))
    archive = Archive.open(settings.archive, "r+")
    archive.set_status(archive.slot(lost := np.datetime64("2024-03-01T23:30")), archive.channels, Status.UNSEEN)
    summary, slots = latest(settings, at(2, 20, day=2))
    assert summary.written == 2
    assert str(lost)[8:16] in slots


def test_corrupt_granules_are_read_again_within_the_lookback_alone(root, monkeypatch):
    for file in (root / "granules").rglob("*ir105*.nc"):
        if file.name[-7:-3] >= "2200" or "0302" in file.name:
            file.write_bytes(b"spoilt")
    settings = config(root)
    latest(settings, at(21, 40))
    latest(settings, at(2, day=2))
    read, real = [], source.read_frame
    monkeypatch.setattr(source, "read_frame", lambda granule, *more: read.append(granule) or real(granule, *more))
    assert latest(settings, at(2, 20, day=2))[0].corrupt == 2
    assert {str(granule.time)[8:16] for granule in read} == {"02T01:30", "02T02:00"}


def test_a_slot_that_had_half_arrived_before_an_outage_is_completed_after_it(root):
    half = path(root, "ir105", "2024-03-01T22:00")
    content = half.read_bytes()
    half.write_bytes(content[:3000])
    settings = config(root)
    assert latest(settings, at(22))[0].corrupt == 1
    half.write_bytes(content)
    summary, slots = latest(settings, at(2, day=2))
    assert summary.written == 1 + 2 * 8
    assert len(slots) == 10, "from 21:30 to 02:00"


def test_what_a_silent_source_publishes_late_is_caught_up(root):
    settings = config(root)
    latest(settings, at(22))
    (root / "granules").rename(root / "away")
    (root / "granules").mkdir()
    assert latest(settings, at(2, day=2))[0].absent == 0, "it may only be silent"
    (root / "granules").rmdir()
    (root / "away").rename(root / "granules")
    path(root, "ir105", "2024-03-02T00:00").unlink()
    summary, slots = latest(settings, at(2, 20, day=2))
    assert summary.absent == 1, "it has gone on without it"
    assert len(slots) == 9, "from 21:30 to 02:00"


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def test_a_clock_that_is_ahead_records_no_future(root):
    settings = config(root, mode="latest", lookback_hours=30.0)
    lines = Lines()
    path(root, "ir105", "2024-03-02T01:00").unlink()
    ahead = ingest(settings, clock=lambda: at(4, day=3), report=lines)
    archive = Archive.open(settings.archive)
    status = archive.status
    assert (ahead.absent, int((status == Status.ABSENT).sum())) == (1, 1), "the one before what the source has shown"
    assert not status[archive.slot(np.datetime64("2024-03-02T04:00")) :].any()
    assert lines.lines == [
        "the source shows nothing after 2024-03-02 03:30 when the clock says 2024-03-03 04:10 UTC: "
        "it is silent, or the clock ahead"
    ]
    right = settings.model_copy(update={"lookback_hours": 5.0})
    assert ingest(right, clock=lambda: at(4, day=2), report=lines).written == 0
    assert len(lines.lines) == 1
    gone = config(root, times={"start": "2024-03-02T03:00", "end": "2024-03-02T05:00"})
    assert run(gone).absent == 2 * 2, "a range that is given is meant"


def test_an_idle_run_lists_nothing(root, monkeypatch):
    settings = config(root)
    latest(settings, at(22))
    latest(settings, at(2, day=2))
    monkeypatch.setattr(source, "list_granules", None)
    assert latest(settings, at(2, 20, day=2))[0].written == 0


def test_repair_reads_the_statuses_it_is_told_and_never_makes_data_worse(root):
    bad, good = path(root, "ir105", "2024-03-01T22:00"), path(root, "vi004", "2024-03-01T23:00")
    contents_of = bad.read_bytes()
    bad.write_bytes(contents_of[:5000])
    settings = config(root)
    assert run(settings).corrupt == 1
    bad.write_bytes(contents_of)
    good.write_bytes(b"spoilt since")
    assert run(settings).written == 0, "backfill leaves a corrupt slot alone"
    fixing = config(root, mode="repair", repair=["corrupt", "complete"])
    summary = run(fixing)
    archive = Archive.open(settings.archive)
    assert (archive.status == Status.COMPLETE).sum() == SLOTS * 2
    assert summary.written == SLOTS * 2 - 1
    assert np.isfinite(archive.read("reflectance", [archive.slot(np.datetime64("2024-03-01T23:00"))])).all()


@pytest.mark.parametrize("mode", ["latest", "repair"])
def test_what_an_archive_s_repair_took_out_of_service_stays_out(root, mode):
    """A frozen and a constant frame, with nothing wrong about their granules; then the source publishes both anew."""
    frozen, constant = path(root, "ir105", "2024-03-02T03:00"), path(root, "ir105", "2024-03-02T03:30")
    sound = {file: file.read_bytes() for file in (frozen, constant)}
    with h5py.File(path(root, "ir105", "2024-03-02T02:30")) as before, h5py.File(frozen, "r+") as file:
        file["image_pixel_values"][...] = before["image_pixel_values"][:]
    with h5py.File(constant, "r+") as file:
        file["image_pixel_values"][...] = file["image_pixel_values"][0, 0]
    settings = config(root, channels=["ir105"])
    assert run(settings).written == SLOTS
    assert len(repair(settings.archive).problems) == 2
    again = settings.model_copy(update={"mode": mode, "lookback_hours": 24.0})
    assert run(again).written == 0
    assert validate(settings.archive).problems == ()
    archive = Archive.open(settings.archive)
    last = range(archive.slot(np.datetime64("2024-03-02T03:00")), archive.slot(np.datetime64("2024-03-02T04:00")))
    assert archive.status_of(last).tolist() == [[Status.CORRUPT]] * 2
    for file, content in sound.items():
        file.write_bytes(content)
    assert run(again).written == 1, "the constant one, which is looked at again"
    assert run(settings.model_copy(update={"mode": "repair", "repair": ["frozen"]})).written == 1
    assert (archive.status == Status.COMPLETE).sum() == SLOTS
    assert validate(settings.archive).problems == ()


def lose(root, channel, stamp, rows):
    """Flag the first rows of a granule as erroneous; returns what it was."""
    there = path(root, channel, stamp)
    content = there.read_bytes()
    with h5py.File(there, "r+") as file:
        raw = file["image_pixel_values"]
        raw[:rows] = raw[:rows] | 3 << 14
    return content


def test_a_frame_with_gaps_replaces_neither_a_complete_one_nor_a_fuller_one(root):
    first, second = "2024-03-01T22:00", "2024-03-01T23:00"
    settings = config(root, channels=["ir105"], times={"start": first, "end": "2024-03-01T23:30"})
    whole = lose(root, "ir105", second, 10)
    assert run(settings).partial == 1
    before = contents(settings.archive)
    lose(root, "ir105", first, 10)
    lose(root, "ir105", second, 30)
    fixing = settings.model_copy(update={"mode": "repair", "repair": ["complete", "partial"]})
    assert run(fixing).partial == 0
    assert contents(settings.archive) == before
    path(root, "ir105", second).write_bytes(whole)
    assert run(fixing).written == 2, "the complete one between them, which is the same again, and the second"
    archive = Archive.open(settings.archive)
    assert (archive.status == Status.COMPLETE).sum() == 3


def test_a_flipped_bit_beside_a_partial_frame_lets_no_emptier_one_replace_it(root):
    stamp = "2024-03-01T22:00"
    settings = config(root, channels=["ir105", "ir112"])
    simulator.simulate(settings)
    lose(root, "ir105", stamp, 10)
    run(settings)
    archive = Archive.open(settings.archive)
    key = archive.key("brightness_temperature", archive.slot(np.datetime64(stamp)))
    stored = archive.objects.get(key)
    archive.objects.put(key, stored[:-60] + bytes([stored[-60] ^ 4]) + stored[-59:])  # the last chunk is that of ir112
    before = contents(settings.archive)
    lose(root, "ir105", stamp, 30)
    assert run(settings.model_copy(update={"mode": "repair", "repair": ["partial"]})).written == 0
    assert contents(settings.archive) == before


@pytest.mark.parametrize(
    ("changes", "now", "message"),
    [
        (
            {"times": {"start": "2024-02-20", "end": "2024-03-02"}},
            NOW,
            "outside the archive's time axis: found 2024-02-20",
        ),
        ({"times": {"start": "2024-03-01", "end": "2026-01-01"}}, NOW, "to 2026-01-01 00:00, where the axis goes from"),
        ({"mode": "latest"}, NOW.replace(year=2031), r"outside the archive's time axis.*or this machine's clock"),
        ({"mode": "latest"}, NOW.replace(year=2021), "time axis begins in the future"),
    ],
)
def test_a_clock_or_times_off_the_axis_are_one_clear_line(root, changes, now, message):
    short = {"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"}
    for existing in (False, True):
        if existing:
            run(config(root, times=short))
        with pytest.raises(FewcastError, match=message):
            ingest(config(root, **changes), clock=lambda: now)


def test_a_coarser_cadence_that_begins_before_the_archive_takes_the_slots_that_there_are(root):
    run(config(root, origin="2024-03-01T22:30", times={"start": "2024-03-01T22:30", "end": "2024-03-01T23:00"}))
    hourly = {"cadence_minutes": 60, "origin": "2024-03-02T00:00"}
    summary = run(config(root, **hourly, times={"start": "2024-03-01T21:45", "end": "2024-03-02T04:00"}))
    assert summary.written == 2 * 5, "from 23:00 to 03:00, and not the 22:00 of the source"


def test_times_in_the_future_say_which_clock(root):
    with pytest.raises(FewcastError, match=r"begins in the future: found 2024-03-01 21:00 when the clock says 2024-02"):
        ingest(config(root), clock=lambda: datetime(2024, 2, 1, tzinfo=UTC))


def test_a_young_slot_is_unseen_and_only_later_absent(root):
    path(root, "ir105", "2024-03-02T03:30").unlink()
    settings = config(root)
    slot = np.datetime64("2024-03-02T03:30")
    young = ingest(settings, clock=lambda: datetime(2024, 3, 2, 4, 10, tzinfo=UTC))
    archive = Archive.open(settings.archive)
    assert (young.absent, archive.status[archive.slot(slot), 0]) == (0, Status.UNSEEN)
    old = ingest(settings, clock=lambda: datetime(2024, 3, 2, 4, 40, tzinfo=UTC))
    assert (old.absent, archive.status[archive.slot(slot), 0]) == (1, Status.ABSENT)


def test_a_second_run_skips_all_and_changes_nothing(root):
    settings = config(root)
    run(settings)
    before = contents(settings.archive)
    shutil.rmtree(root / "granules")  # it need not even look
    summary = run(settings)
    assert (summary.written, summary.skipped) == (0, SLOTS * 2)
    assert contents(settings.archive) == before
