"""What goes wrong at the source is recorded with its reason, and the run goes on."""

import shutil

import h5py
import numpy as np
import pytest

from core.archive import Archive, Status, repair, validate, validation
from core.errors import AwayError, FewcastError
from core.report import Silent
from core.satellite import simulator, source
from core.satellite.faults import Fault, fault_of
from core.satellite.granule import Reason, RefusedGranule, UnavailableGranule
from tests.core.ingest.world import SLOTS, config, path, run

EXPECTED = {
    None: (Status.COMPLETE, Reason.NONE),
    Fault.DUPLICATED: (Status.CORRUPT, Reason.WRONG_TIME),
    Fault.LATE: (Status.ABSENT, Reason.NONE),
    Fault.MISLABELLED: (Status.CORRUPT, Reason.WRONG_CHANNEL),
    Fault.WRONG_GRID: (Status.CORRUPT, Reason.WRONG_GRID),
    Fault.HTML: (Status.CORRUPT, Reason.NOT_HDF5),
    Fault.ALL_ZERO: (Status.CORRUPT, Reason.ALL_ZERO),
}


@pytest.mark.parametrize(("minutes", "end"), [(30, "2024-03-02T06:00"), (2, "2024-03-01T02:00")])
def test_every_fault_of_the_simulator_ends_as_its_status_and_reason(tmp_path, minutes, end):
    settings = config(
        tmp_path,
        channels=["ir105", "ir112"],
        times={"start": "2024-03-01T00:00", "end": end},
        cadence_minutes=minutes,
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


def change(root, channel, stamp, values):
    """Give a granule other raw values, and leave its header as it is."""
    with h5py.File(path(root, channel, stamp), "r+") as file:
        raw = file["image_pixel_values"]
        raw[...] = values(raw[...])


def test_frames_that_only_look_like_data_pass_an_ingest_and_are_found_by_validate(root):
    """A source that repeats a frame, or sends one value for every pixel, under headers that are right."""
    with h5py.File(path(root, "ir105", "2024-03-01T22:30")) as file:
        before = file["image_pixel_values"][...]
    change(root, "ir105", "2024-03-01T23:00", lambda _: before)
    change(root, "vi004", "2024-03-02T01:00", lambda raw: np.full_like(raw, 700))
    settings = config(root)
    assert run(settings).written == SLOTS * 2
    found = validate(settings.archive)
    assert [(str(p.time)[:16], p.channel, p.fault) for p in found.problems] == [
        ("2024-03-01T23:00", "ir105", validation.Fault.FROZEN),
        ("2024-03-02T01:00", "vi004", validation.Fault.CONSTANT),
    ]
    repair(settings.archive)
    assert run(settings).written == 0, "backfill leaves what the source has wrong alone"
    simulator.simulate(settings.model_copy(update={"source": str(root / "again")}))
    for channel, stamp in (("ir105", "2024-03-01T23:00"), ("vi004", "2024-03-02T01:00")):
        shutil.copy(
            root / "again" / path(root, channel, stamp).relative_to(root / "granules"), path(root, channel, stamp)
        )
    assert run(config(root, mode="repair", repair=["corrupt", "frozen"])).written == 2
    assert validate(settings.archive).problems == ()


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def unavailable(error, *times):
    """What stands for reading a granule of these times; of all, where none is given."""
    real, of = source.read_frame, {np.datetime64(time, "s") for time in times}

    def read_frame(granule, *more):
        if not of or granule.time in of:
            raise error
        return real(granule, *more)

    return read_frame


DENIED = RefusedGranule(Reason.UNREACHABLE, "s3://bucket/a.nc: access denied")
AWAY = UnavailableGranule(Reason.UNREACHABLE, "s3://bucket/a.nc: the connection timed out")
VANISHED = UnavailableGranule(Reason.VANISHED, "s3://bucket/a.nc")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    ("error", "message", "passes"),
    [(DENIED, r"access to .* was refused: found unreachable: .*access denied; correct the credentials", False),
     (AWAY, r"cannot be reached: found unreachable: .*timed out; check the network", True)],
)  # fmt: skip
def test_a_source_that_lists_and_gives_nothing_is_one_clear_line(root, monkeypatch, error, message, passes, before):
    settings = config(root, anonymous=False)
    if before:
        run(config(root, anonymous=False, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"}))
    monkeypatch.setattr(source, "read_frame", unavailable(error))
    lines = Lines()
    with pytest.raises(FewcastError, match=message) as caught:
        run(settings, report=lines)
    assert isinstance(caught.value, AwayError) is passes
    assert lines.lines == [f"a granule could not be fetched, and is left to the next run: {error}"]
    monkeypatch.undo()
    assert run(settings).written == 2 * SLOTS - (4 if before else 0), "nothing was recorded of them"


@pytest.mark.parametrize(("error", "message", "passes"),
                         [(DENIED, "was refused", False), (AWAY, r"cannot be reached: .*timed out", True)])  # fmt: skip
def test_a_first_run_that_can_fetch_nothing_says_so(root, monkeypatch, error, message, passes):
    """It is no archive's fault, and Prefect tries again where it may pass."""

    def fetch(*_):
        raise error

    monkeypatch.setattr(source, "fetch", fetch)
    with pytest.raises(FewcastError, match=message) as caught:
        run(config(root))
    assert isinstance(caught.value, AwayError) is passes
    assert not Archive.exists(config(root).archive)


def test_one_granule_out_of_reach_is_not_why_a_day_tells_no_grid(root, monkeypatch):
    """The first day lacks a channel, and one granule of the other cannot be fetched: the next day tells."""
    for granule in (root / "granules").rglob("*ir105*20240301*.nc"):
        granule.unlink()
    real, lost = source.fetch, str(path(root, "vi004", "2024-03-01T21:00"))

    def fetch(granule, settings):
        if lost in granule.url:
            raise AWAY
        return real(granule, settings)

    monkeypatch.setattr(source, "fetch", fetch)
    summary = run(config(root))
    assert (summary.unavailable, summary.written, summary.absent) == (1, 2 * SLOTS - 6 - 1, 6)


@pytest.mark.parametrize("error", [DENIED, AWAY, VANISHED])
def test_a_newest_slot_that_cannot_be_had_is_no_error(root, monkeypatch, error):
    settings = config(root)
    run(config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-02T03:30"}))
    monkeypatch.setattr(source, "read_frame", unavailable(error, "2024-03-02T03:30"))
    summary = run(settings)
    assert (summary.written, summary.unavailable, summary.reasons) == (0, 2, {error.reason.name.lower(): 2})


def test_what_has_vanished_and_what_is_out_of_reach_beside_others_is_no_error(root, monkeypatch):
    run(config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"}))
    monkeypatch.setattr(source, "read_frame", unavailable(VANISHED))
    assert run(config(root)).reasons == {"vanished": 2 * SLOTS - 4}
    monkeypatch.undo()
    monkeypatch.setattr(source, "read_frame", unavailable(AWAY, "2024-03-01T23:00", "2024-03-01T23:30"))
    assert run(config(root)).unavailable == 4


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


def test_a_first_day_without_the_coarsest_band_makes_no_fine_archive(root):
    for file in (root / "granules/AMI/L1B/LA/202403/01").rglob("*ir105*.nc"):
        file.unlink()
    settings = config(root)
    first = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-02T00:00"})
    with pytest.raises(FewcastError, match="holds nothing of ir105 that can be read"):
        run(first)
    assert not Archive.exists(settings.archive)
    summary = run(settings)
    assert Archive.open(settings.archive).shape == (24, 24)
    assert (summary.written, summary.absent) == (SLOTS * 2 - 6, 6)


def test_a_day_of_corrupt_files_before_the_first_good_one_is_recorded_too(root):
    for file in (root / "granules/AMI/L1B/LA/202403/01").rglob("*.nc"):
        file.write_bytes(b"nonsense")
    summary = run(config(root))
    assert (summary.corrupt, summary.written) == (12, SLOTS * 2 - 12)


@pytest.mark.parametrize("mode", ["backfill", "repair"])
def test_a_flipped_bit_costs_its_own_frame_alone_and_the_next_run_brings_it_back(root, mode):
    settings = config(root, channels=["ir105", "ir112"])
    simulator.simulate(settings)
    late = path(root, "ir112" if mode == "backfill" else "ir105", "2024-03-01T22:00")
    content = late.read_bytes()
    if mode == "backfill":
        late.unlink()
    run(settings)
    archive = Archive.open(settings.archive)
    slot = archive.slot(np.datetime64("2024-03-01T22:00"))
    key = archive.key("brightness_temperature", slot)
    whole = archive.objects.get(key)
    archive.objects.put(key, whole[:300] + bytes([whole[300] ^ 4]) + whole[301:])
    if mode == "backfill":
        late.write_bytes(content)
    else:  # it comes with gaps now, which do not replace what was complete
        with h5py.File(late, "r+") as file:
            file["image_pixel_values"][:10] = file["image_pixel_values"][:10] | 3 << 14
    lines = Lines()
    run(settings.model_copy(update={"mode": mode, "repair": ["complete"]}), report=lines)
    assert archive.status[slot].tolist() == [Status.UNSEEN, Status.COMPLETE]
    assert lines.lines == ["ir105 of 2024-03-01 22:00 is kept damaged: the next run reads it"]
    late.write_bytes(content)
    assert run(settings).written == 1
    assert (archive.status == Status.COMPLETE).sum() == 2 * SLOTS
    assert validate(settings.archive).problems == ()
