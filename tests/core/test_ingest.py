"""Ingestion of simulated granules into a real archive: what arrives, what does not, and what a kill costs."""

import errno
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from core.archive import Archive, Status
from core.archive.lock import exclusive
from core.archive.objects import LocalObjects
from core.config import IngestConfig
from core.errors import FewcastError
from core.ingest import ingest
from core.satellite import bands, simulator
from core.satellite.faults import Fault, fault_of
from core.satellite.granule import Reason
from core.satellite.truth import Truth

NOW = datetime(2024, 3, 2, 12, tzinfo=UTC)
SLOTS, CHANNELS = 14, ("ir105", "vi004")


def config(root: Path, **changes) -> IngestConfig:
    base = {
        "source": str(root / "granules"),
        "archive": str(root / "archive.zarr"),
        "channels": list(CHANNELS),
        "times": {"start": "2024-03-01T21:00", "end": "2024-03-02T04:00"},
        "origin": "2024-03-01T00:00",
        "cadence_minutes": 30,
        "years": 1,
        "block": 2,
        "simulator": {"enabled": True, "seed": 5, "pixels": 48},
    }
    return IngestConfig.model_validate(base | changes)


def run(settings: IngestConfig, **more):
    return ingest(settings, clock=lambda: NOW, **more)


@pytest.fixture(scope="module")
def granules(tmp_path_factory):
    root = tmp_path_factory.mktemp("granules")
    simulator.simulate(config(root))
    return root / "granules"


@pytest.fixture
def root(granules, tmp_path):
    shutil.copytree(granules, tmp_path / "granules")
    return tmp_path


def path(root: Path, channel: str, stamp: str) -> Path:
    return root / "granules" / simulator.key(channel, np.datetime64(stamp, "s"))


def contents(archive: str) -> dict[str, bytes]:
    objects = LocalObjects(archive)
    return {key: objects.get(key) or b"" for key, _ in objects.keys("") if key != ".lock"}


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


def test_a_second_run_skips_all_and_changes_nothing(root):
    settings = config(root)
    run(settings)
    before = contents(settings.archive)
    shutil.rmtree(root / "granules")  # it need not even look
    summary = run(settings)
    assert (summary.written, summary.skipped) == (0, SLOTS * 2)
    assert contents(settings.archive) == before


def test_bad_granules_are_recorded_with_their_reason_and_the_run_goes_on(root):
    path(root, "ir105", "2024-03-01T21:00").write_text("<!DOCTYPE html><html>404</html>")
    torn = path(root, "vi004", "2024-03-01T22:00")
    torn.write_bytes(torn.read_bytes()[:3000])
    shutil.copy(path(root, "ir105", "2024-03-02T01:00"), path(root, "ir105", "2024-03-02T00:00"))
    path(root, "vi004", "2024-03-02T03:00").unlink()
    settings = config(root)
    summary = run(settings)
    assert (summary.written, summary.corrupt, summary.absent) == (SLOTS * 2 - 4, 3, 1)
    archive = Archive.open(settings.archive)
    status, reason = archive.status, archive.reason

    def of(stamp, channel):
        at = archive.slot(np.datetime64(stamp)), archive.channels.index(channel)
        return status[at], reason[at]

    assert of("2024-03-01T21:00", "ir105") == (Status.CORRUPT, Reason.NOT_HDF5)
    assert of("2024-03-01T22:00", "vi004")[0] == Status.CORRUPT
    assert of("2024-03-02T00:00", "ir105") == (Status.CORRUPT, Reason.WRONG_TIME)
    assert of("2024-03-02T03:00", "vi004") == (Status.ABSENT, Reason.NONE)
    assert sum(summary.reasons.values()) == 3
    # The absent one arrives after all.
    simulator.simulate(settings.model_copy(update={"channels": ["vi004"]}))
    run(settings)
    assert Archive.open(settings.archive).status[archive.slot(np.datetime64("2024-03-02T03:00")), 1] == Status.COMPLETE


def test_a_young_slot_is_unseen_and_only_later_absent(root):
    path(root, "ir105", "2024-03-02T03:30").unlink()
    settings = config(root)
    slot = np.datetime64("2024-03-02T03:30")
    young = ingest(settings, clock=lambda: datetime(2024, 3, 2, 4, 10, tzinfo=UTC))
    archive = Archive.open(settings.archive)
    assert (young.absent, archive.status[archive.slot(slot), 0]) == (0, Status.UNSEEN)
    old = ingest(settings, clock=lambda: datetime(2024, 3, 2, 4, 40, tzinfo=UTC))
    assert (old.absent, archive.status[archive.slot(slot), 0]) == (1, Status.ABSENT)


def latest(settings: IngestConfig, now: datetime):
    config = settings.model_copy(update={"mode": "latest", "lookback_hours": 1.0, "catch_up_hours": 5.0})
    summary = ingest(config, clock=lambda: now)
    archive = Archive.open(settings.archive)
    return summary, [str(t)[8:16] for t in archive.times[np.flatnonzero((archive.status == Status.COMPLETE).all(1))]]


def test_latest_begins_near_and_catches_up_since_the_last_complete_slot(root):
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


def test_the_sun_comes_with_the_frames(root):
    settings = config(root, sun_angle=True, times={"start": "2024-03-02T03:00", "end": "2024-03-02T04:00"})
    run(settings)
    archive = Archive.open(settings.archive)
    assert archive.kinds["solar_elevation"] == ("solar_elevation",)
    slot = archive.slot(np.datetime64("2024-03-02T03:30"))
    assert archive.status[slot].tolist() == [Status.COMPLETE] * 3
    assert 30 < np.nanmean(archive.read("solar_elevation", [slot])) < 60  # noon in Korea, March
    assert run(settings).skipped == 4


def test_an_empty_source_is_one_clear_line_and_leaves_nothing(tmp_path):
    (tmp_path / "granules").mkdir()
    with pytest.raises(FewcastError, match=r"holds no granule to ingest: found none of ir105, vi004 from 2024-03-01"):
        run(config(tmp_path))
    assert not (tmp_path / "archive.zarr").exists()


def test_a_source_of_corrupt_files_only_leaves_nothing(root):
    for file in (root / "granules").rglob("*.nc"):
        file.write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    with pytest.raises(FewcastError, match="holds nothing that can be read"):
        run(config(root))
    assert not (root / "archive.zarr").exists()


def test_a_day_of_corrupt_files_before_the_first_good_one_is_recorded_too(root):
    for file in (root / "granules/AMI/L1B/LA/202403/01").rglob("*.nc"):
        file.write_bytes(b"nonsense")
    summary = run(config(root))
    assert (summary.corrupt, summary.written) == (12, SLOTS * 2 - 12)


def test_an_archive_of_another_grid_is_refused_and_untouched(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    before = contents(settings.archive)
    with pytest.raises(FewcastError, match=r"another grid: found 24x24 pixels there, 12x12 asked for"):
        run(config(root, block=4))
    assert contents(settings.archive) == before


def test_times_in_the_future_say_which_clock(root):
    with pytest.raises(FewcastError, match=r"begins in the future: found 2024-03-01 21:00 when the clock says 2024-02"):
        ingest(config(root), clock=lambda: datetime(2024, 2, 1, tzinfo=UTC))


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


def test_a_full_disk_is_one_clear_line_and_nothing_recorded_is_lost(root, monkeypatch):
    settings = config(root)
    real = LocalObjects.put
    left = [40]

    def put(self, key, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, data)

    monkeypatch.setattr(LocalObjects, "put", put)
    with pytest.raises(FewcastError, match=r"no space left for the archive .*free some space and run again"):
        run(settings)
    monkeypatch.undo()
    run(settings)
    whole = contents(settings.archive)
    shutil.rmtree(settings.archive)
    run(settings)
    assert contents(settings.archive) == whole


def test_a_second_ingest_is_kept_out(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    with exclusive(LocalObjects(settings.archive)), pytest.raises(FewcastError, match="is being written"):
        run(config(root))


def test_workers_of_a_cluster_write_the_same_archive(root):
    from distributed import Client, LocalCluster

    settings = config(root)
    run(settings)
    alone = contents(settings.archive)
    shutil.rmtree(settings.archive)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        run(settings, client=client)
    assert contents(settings.archive) == alone


EXPECTED = {
    None: (Status.COMPLETE, Reason.NONE),
    Fault.DUPLICATED: (Status.CORRUPT, Reason.WRONG_TIME),
    Fault.LATE: (Status.ABSENT, Reason.NONE),
    Fault.MISLABELLED: (Status.CORRUPT, Reason.WRONG_CHANNEL),
    Fault.WRONG_GRID: (Status.CORRUPT, Reason.WRONG_GRID),
    Fault.HTML: (Status.CORRUPT, Reason.NOT_HDF5),
    Fault.ALL_ZERO: (Status.CORRUPT, Reason.ALL_ZERO),
}


def test_every_fault_of_the_simulator_ends_as_its_status_and_reason(tmp_path):
    settings = config(
        tmp_path,
        channels=["ir105", "ir112"],
        times={"start": "2024-03-01T00:00", "end": "2024-03-02T06:00"},
        simulator={"enabled": True, "seed": 5, "pixels": 48, "faults": 0.5},
    )
    simulator.simulate(settings)
    run(settings)
    archive = Archive.open(settings.archive)
    status, reason = archive.status, archive.reason
    seen = set()
    for slot in range(60):
        for column, name in enumerate(archive.channels):
            fault = fault_of(5, name, archive.times[slot], 0.5)
            seen.add(fault)
            got = Status(status[slot, column]), Reason(reason[slot, column])
            if fault == Fault.TRUNCATED:
                assert got[0] == Status.CORRUPT
            elif fault != Fault.FLIPPED:
                assert got == EXPECTED[fault], (fault, archive.times[slot], name)
            elif got[0] in (Status.COMPLETE, Status.PARTIAL):  # nothing shows it, but it must look like data
                values = archive.read("brightness_temperature", [slot])[0, column]
                assert 130 <= np.nanmin(values) <= np.nanmax(values) <= 430
    assert seen == {None, *Fault}
    late = (status[:60] == Status.ABSENT).sum()
    assert len(simulator.simulate(settings)) == late  # they arrive after all
    assert run(settings).written == late


CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from core.config import IngestConfig
from core.ingest import ingest
settings = IngestConfig.model_validate_json(Path(sys.argv[1]).read_text())
print("ready", flush=True)
ingest(settings, clock=lambda: datetime(2024, 3, 2, 12, tzinfo=UTC))
"""


def kill_and_finish(root: Path, settings: IngestConfig, rounds: int, seed: int) -> None:
    """Kill an ingest at `rounds` random moments, then let one end."""
    (root / "config.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-c", CHILD, str(root / "config.json")]
    rng = random.Random(seed)
    for _ in range(rounds):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        child.kill()
        child.wait()
        child.stdout.close()
        if Archive.exists(settings.archive):
            archive = Archive.open(settings.archive)
            for slot in np.flatnonzero((archive.status == Status.COMPLETE).any(1)):
                archive.digest([slot])
                archive.read("brightness_temperature", [slot])
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_killed_at_random_moments_it_ends_bit_identical(root, rounds):
    settings = config(root, archive=str(root / "killed.zarr"))
    undisturbed = config(root)
    run(undisturbed)
    kill_and_finish(root, settings, rounds, seed=rounds)
    assert contents(settings.archive) == contents(undisturbed.archive)
