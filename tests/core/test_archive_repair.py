"""One torn channel in a shard, and the sound ones beside it."""

from dataclasses import replace

import numpy as np
import pytest

from core.archive import Archive, Status, Validation, repair, shard, validate, validation
from core.archive.validation import Fault
from core.satellite.granule import Frame
from tests.core.test_archive_health import GRID, frame


@pytest.fixture
def three(tmp_path) -> Archive:
    """One slot of three channels of one kind, of which the second is torn."""
    names = ("ir105", "ir112", "wv063")
    archive = Archive.create(
        str(tmp_path / "three.zarr"), grid=GRID, channels=dict.fromkeys(names, "brightness_temperature"),
        origin=np.datetime64("2024-03-01"), cadence_minutes=60, years=1,
    )  # fmt: skip
    archive.record(archive.write_frame(0, [seen(name) for name in names]))
    tear(archive, 1)
    return archive


def seen(name: str) -> Frame:
    values = np.random.default_rng([*name.encode()]).uniform(220, 270, GRID.shape).astype(np.float32)
    return replace(frame(0, "ir105", values), channel=name)


def tear(archive: Archive, position: int) -> None:
    """Flip a bit of one channel's only chunk."""
    key = archive.key("brightness_temperature", 0)
    whole = archive.objects.get(key)
    start = int(shard._index(shard.within(whole), (3, *archive.shape))[position, 0, 0, 0])
    archive.objects.put(key, whole[: start + 50] + bytes([whole[start + 50] ^ 1]) + whole[start + 51 :])


def test_a_repair_takes_out_the_torn_channel_alone_and_the_next_write_keeps_those_beside_it(three):
    assert [(p.channel, p.fault) for p in validate(three.url).problems] == [("ir112", Fault.TORN)]
    repair(three.url)
    assert three.status_of([0]).tolist() == [[Status.COMPLETE, Status.UNSEEN, Status.COMPLETE]]
    assert validate(three.url) == Validation(three.url, 2, ())
    names = ("ir105", "wv063")
    for slots in ([0], [0, 1]):
        served = three.read("brightness_temperature", slots)[0, [0, 2]]
        assert np.allclose(served, [seen(name).values for name in names], atol=0.006)
    three.record(three.write_frame(0, seen("ir112")))
    assert three.status_of([0]).tolist() == [[Status.COMPLETE] * 3]
    served = three.read("brightness_temperature", [0])[0]
    assert np.allclose(served, [seen(name).values for name in three.channels], atol=0.006)


@pytest.mark.parametrize("killed", ["before the torn frame is gone", "never"])
def test_a_torn_frame_that_is_not_served_is_found_where_it_spoils_those_beside_it(three, killed, monkeypatch):
    if killed == "never":
        three.set_status(0, "ir112", Status.ABSENT)
    else:
        monkeypatch.setattr(validation, "put_beside", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            repair(three.url)
        monkeypatch.undo()
    assert [(p.channel, p.fault) for p in validate(three.url).problems] == [("ir112", Fault.TORN)]
    repair(three.url)
    assert validate(three.url).problems == ()
    assert np.isfinite(three.read("brightness_temperature", [0])[0, [0, 2]]).all()


def test_where_the_index_is_torn_what_was_served_is_lost_and_nothing_else_is_told(three):
    three.set_status(0, "ir112", Status.ABSENT)
    three.objects.put(three.key("brightness_temperature", 0), b"rubbish")
    assert [p.channel for p in repair(three.url).problems] == ["ir105", "wv063"]
    assert three.status_of([0]).tolist() == [[Status.UNSEEN, Status.ABSENT, Status.UNSEEN]]
