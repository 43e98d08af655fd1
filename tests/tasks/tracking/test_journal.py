"""The journal of a run: whole lines, steps once, and what was delivered."""

import errno
from pathlib import Path

import pytest

from core.errors import FewcastError
from tasks.tracking.journal import Delivered, Journal, read_delivered


def test_steps_that_a_resumed_run_repeats_are_kept_once(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    for step in range(5):
        first.metrics({"loss": float(step)}, step)
    first.metrics({"crps": 0.5}, 4)
    first.close()
    again = Journal(tmp_path)
    for step in range(3, 7):
        again.metrics({"loss": float(step), "crps": 1.0}, step)
    again.close()
    losses = [(step, values["loss"]) for step, values in again.history() if "loss" in values]
    assert losses == [(step, float(step)) for step in range(7)]
    assert [step for step, values in again.history() if "crps" in values] == [4, 5, 6]


def test_after_a_change_of_settings_the_steps_since_the_checkpoint_are_told_anew(tmp_path: Path) -> None:
    def go_on(rate: str, *steps: int) -> None:
        journal = Journal(tmp_path)
        journal.start({"rate": rate}, {})
        for step in steps:
            journal.metrics({"loss": float(rate) * step}, step)
            journal.sample({"cpu": 1.0})
        journal.close()
        told.append([step for step, values in journal.history() if "loss" in values])
        samples.append([step for step, values in journal.history() if "cpu" in values])

    told: list[list[int]] = []
    samples: list[list[int]] = []
    go_on("3", 10, 20, 30)
    go_on("1")  # killed before it told anything
    go_on("1", 20)
    go_on("1", 20, 30)
    assert told[1:] == [[10, 20, 30], [10, 20, 30, 20], [10, 20, 30, 20, 30]]
    assert samples[-1] == [0, 1, 2, 3, 4, 5]


def test_a_folder_is_told_once_for_each_of_its_contents(tmp_path: Path) -> None:
    for digests in (("a", "a"), ("a", "b", "")):
        journal = Journal(tmp_path)
        for digest in digests:
            journal.artifact(tmp_path / "step_00000004", "checkpoints", digest)
        journal.close()
    told = [record.get("digest") for record, _ in journal.since(0)]
    assert told == ["a", "b", None]


def test_a_line_torn_by_a_kill_is_dropped_and_writing_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": 1.0}, 0)
    journal.close()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        again = Journal(tmp_path)
        again.metrics({"loss": 2.0}, 1)
        again.close()
        assert again.history() == [(0, {"loss": 1.0}), (1, {"loss": 2.0})]


def test_a_second_process_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    held = Journal(tmp_path / "run" / "tracking")
    held.metrics({"loss": 1.0}, 0)
    path = tmp_path / "run" / "tracking" / "journal.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind": "met')  # the holder is writing
    before = path.read_bytes()
    with pytest.raises(FewcastError, match=f"the run {tmp_path / 'run'} is at work: found another process"):
        Journal(tmp_path / "run" / "tracking")
    assert path.read_bytes() == before
    held.close()
    Journal(tmp_path / "run" / "tracking").close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FewcastError, match="found Not a directory; give the run a folder that can be written"):
        Journal(tmp_path / "file" / "tracking")


@pytest.mark.parametrize("damage", [b"\x00\xff\n", b"[]\n", b'{"kind": "metrics", "va\n'])
def test_a_damaged_line_is_left_out_with_a_warning(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    for step in range(2):
        journal.metrics({"loss": 1.0}, step)
    journal.close()
    lines = (tmp_path / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "journal.jsonl").write_bytes(lines[0] + damage + lines[1])
    again = Journal(tmp_path)
    again.metrics({"loss": 1.0}, 2)
    again.close()
    assert [step for step, _ in again.history()] == [0, 1, 2]
    assert ["damaged line" in record.message for record in caplog.records] == [True]


def test_records_after_an_offset_are_those_not_delivered(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step in range(4):
        journal.metrics({"loss": 0.0}, step)
    records = journal.since(0)
    for number, (_, offset) in enumerate(records, start=1):
        assert [r for r, _ in journal.since(offset)] == [r for r, _ in records[number:]]
    journal.delivered = Delivered("run", "uri", records[1][1])
    assert read_delivered(tmp_path) == journal.delivered
    (tmp_path / "delivered.json").write_text("{")
    assert read_delivered(tmp_path) == Delivered()
    journal.close()


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.metrics({"loss": float("nan"), "norm": float("inf")}, 0)
    journal.close()
    [(_, values)] = journal.history()
    assert values["loss"] != values["loss"]
    assert values["norm"] == float("inf")


class Disk:
    """A file on a disk with room for so many bytes."""

    def __init__(self, path: Path, room: int) -> None:
        self.file, self.room = path.open("ab", buffering=0), room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(data[: self.room])
        self.room -= written
        return written

    def close(self) -> None:
        self.file.close()


def test_what_a_full_disk_refuses_waits_and_is_written_once_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    disk = Disk(tmp_path / "journal.jsonl", room=100)
    monkeypatch.setattr(journal, "_file", disk)
    for step in range(5):
        journal.metrics({"loss": float(step)}, step)
    assert len(journal.history()) < 2  # and a torn line
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    disk.room = 10_000
    journal.metrics({"loss": 5.0}, 5)
    journal.close()
    assert journal.history() == [(step, {"loss": float(step)}) for step in range(6)]
