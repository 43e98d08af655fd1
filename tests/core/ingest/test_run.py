"""Ingestion of simulated granules into a real archive, against the simulated truth."""

import shutil
from datetime import UTC, datetime

import numpy as np
import pytest

from core.archive import Archive, Status, repair
from core.errors import FewcastError
from core.ingest import ingest
from core.ingest.run import DAYS_LISTED
from core.satellite import bands, source
from core.satellite.truth import Truth
from tests.core.ingest.world import SLOTS, config, contents, run


def test_what_was_simulated_is_what_is_archived(root):
    settings = config(root)
    summary = run(settings)
    assert (summary.written, summary.corrupt, summary.absent, summary.skipped) == (SLOTS * 2, 0, 0, 0)
    archive = Archive.open(settings.archive)
    assert archive.shape == (24, 24)
    moment = np.datetime64("2024-03-02T00:30", "s")
    slot = archive.slot(moment)
    sky = Truth(5, 48).at(moment)
    band = bands.BANDS["ir105"]
    seen = bands.observe(band, sky, bands.noise_of(5, "ir105", moment))
    expected = seen.reshape(24, 2, 24, 2).mean((1, 3))
    got = archive.read("brightness_temperature", [slot])[0, 0]
    assert np.abs(got - expected).max() < 0.04
    assert (archive.status[archive.slot(np.datetime64("2024-03-01T21:00")) :][:SLOTS] == Status.COMPLETE).all()
    assert (archive.status == Status.COMPLETE).sum() == SLOTS * 2


def test_the_sun_comes_with_the_frames(root):
    settings = config(root, sun_angle=True, times={"start": "2024-03-02T03:00", "end": "2024-03-02T04:00"})
    run(settings)
    archive = Archive.open(settings.archive)
    assert archive.kinds["solar_elevation"] == ("solar_elevation",)
    slot = archive.slot(np.datetime64("2024-03-02T03:30"))
    assert archive.status[slot].tolist() == [Status.COMPLETE] * 3
    assert 30 < np.nanmean(archive.read("solar_elevation", [slot])) < 60  # noon in Korea, March
    assert run(settings).skipped == 4


@pytest.mark.parametrize("mode", ["backfill", "latest", "repair"])
def test_a_sun_that_is_damaged_is_written_again_by_itself(root, mode):
    settings = config(root, sun_angle=True, mode=mode, lookback_hours=2.0, catch_up_hours=24.0)
    run(config(root, sun_angle=True))
    whole = contents(settings.archive)
    archive = Archive.open(settings.archive)
    slot = archive.slot(np.datetime64("2024-03-02T02:00"))
    key = archive.key("solar_elevation", slot)
    archive.objects.put(key, whole[key][:20] + bytes([whole[key][20] ^ 1]) + whole[key][21:])
    assert len(repair(settings.archive).problems) == 1
    shutil.rmtree(root / "granules")  # no granule is read for it
    (root / "granules").mkdir()
    summary = run(settings)
    assert (summary.written, summary.unavailable) == (1, 0)
    assert archive.status_of([slot]).tolist() == [[Status.COMPLETE] * 3]
    assert contents(settings.archive)[key] == whole[key]
    assert run(settings).written == 0


def test_an_archive_of_another_grid_is_refused_and_untouched(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    before = contents(settings.archive)
    with pytest.raises(FewcastError, match=r"another grid: found 24x24 pixels there, 12x12 asked for"):
        run(config(root, block=4))
    assert contents(settings.archive) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": ["ir105", "ir112"]}, "has no channel ir112: found ir105, vi004"),
        ({"sun_angle": True}, "has no channel solar_elevation"),
        ({"cadence_minutes": 20}, "is of another time axis: found every 30 minutes"),
        ({"origin": "2024-03-01T00:10"}, "is of another time axis"),
        ({"mode": "latest", "cadence_minutes": 20}, "is of another time axis"),
    ],
)
def test_an_archive_of_other_channels_or_another_time_axis_is_refused_and_untouched(root, changes, message):
    run(config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"}))
    before = contents(str(root / "archive.zarr"))
    with pytest.raises(FewcastError, match=message):
        run(config(root, **changes))
    assert contents(str(root / "archive.zarr")) == before


def test_times_after_the_last_slot_of_an_archive_that_is_to_be_are_one_clear_line(root):
    """A year has 365 days on the axis, whatever the calendar says."""
    late = {"start": "2024-03-01T21:00", "end": "2025-03-01T05:00"}
    with pytest.raises(FewcastError, match="where the axis goes from 2024-03-01 00:00 to 2025-03-01 00:00"):
        ingest(config(root, times=late), clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("existing", [False, True])
def test_an_area_out_of_sight_is_refused_on_the_first_day(root, existing, monkeypatch):
    if existing:
        run(config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"}))
    listed, real = [], source.list_granules
    monkeypatch.setattr(source, "list_granules", lambda *asked: listed.append(asked) or real(*asked))
    days = {"start": "2024-03-01T21:00", "end": "2024-03-20T00:00"}
    before = contents(str(root / "archive.zarr"))
    with pytest.raises(FewcastError, match="the area cannot be seen"):
        ingest(config(root, area="brazil", times=days), clock=lambda: datetime(2024, 4, 1, tzinfo=UTC))
    assert len(listed) <= 1 + DAYS_LISTED
    assert contents(str(root / "archive.zarr")) == before
