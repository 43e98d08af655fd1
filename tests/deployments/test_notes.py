"""What a stack remembers is written whole or not at all: an empty note would bring it up over other records."""

import os
import stat
from pathlib import Path

import pytest

from deployments.backup import _postgres
from deployments.stack import Stack
from deployments.stack.notes import write_whole

NOTES = ("profile", "ports.json", "secrets.json")


def full(_: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_note_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "note"
    write_whole(note, "old", mode=0o600)
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(note, "new")
    assert note.read_text() == "old"
    write_whole(note, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    assert note.read_text() == "new"


def test_a_stack_writes_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(tmp_path / "data")
    before = stack.plan()
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "write_text", lambda *_: pytest.fail("a note is written in place"))
    assert stack.plan() == before
    assert all((stack.folder / name).read_text() for name in NOTES)


@pytest.mark.parametrize("note", ["", "sqlite"])
def test_a_cluster_is_of_the_postgres_profile_whatever_the_note_says(note: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    (stack.folder / "postgres").mkdir()
    (stack.folder / "postgres" / "PG_VERSION").write_text("15\n")
    (stack.folder / "profile").write_text(note)
    postgres = stack.plan().postgres
    assert postgres is not None
    assert postgres == _postgres(stack.data), "and a backup takes it for that"
    assert (stack.folder / "profile").read_text() == "postgres"
