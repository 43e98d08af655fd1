"""A backup is taken while everything is written, and what is restored from it is what was there."""

import sqlite3
import threading
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.archive import Archive, validate
from core.archive.lock import exclusive
from core.archive.objects import open_objects
from core.config import load
from core.errors import FewcastError
from core.satellite.granule import Frame, Grid
from deployments.backup import _targets, restore, save
from flows.cli import PRESETS

START = datetime(2024, 6, 1, tzinfo=UTC)
CRS = {
    "grid_mapping_name": "mercator",
    "longitude_of_projection_origin": 128.0,
    "standard_parallel": 0.0,
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.3,
}
GRID = Grid(np.arange(40) * 2000.0, -np.arange(30) * 2000.0, CRS)


def write(archive: Archive, slot: int, seed: int = 0) -> None:
    values = np.random.default_rng([seed, slot]).uniform(200, 300, (30, 40)).astype(np.float32)
    time = np.datetime64((START + slot * timedelta(minutes=10)).replace(tzinfo=None), "s")
    frame = Frame(
        channel="ir", kind="brightness_temperature", time=time, observation_time=time, values=values, grid=GRID
    )
    archive.record(archive.write_frame(slot, frame))


def make(url: str, seed: int = 0) -> Archive:
    made = Archive.create(
        url, grid=GRID, channels={"ir": "brightness_temperature"}, origin=START, cadence_minutes=10, years=1
    )
    for slot in (0, 1, 2, 200):
        write(made, slot, seed)
    return made


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return make(str(tmp_path / "korea" / "archive.zarr"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two databases in write-ahead mode with something not yet written back, and an artifact."""
    data = tmp_path / "data"
    (data / "mlflow-artifacts" / "1").mkdir(parents=True)
    (data / "mlflow-artifacts" / "1" / "model.bin").write_bytes(b"weights")
    for place, table in (("prefect/prefect.db", "flow_run"), ("mlflow.db", "experiments")):
        (data / place).parent.mkdir(exist_ok=True)
        with closing(sqlite3.connect(data / place)) as base:
            base.execute("PRAGMA journal_mode=WAL")
            base.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, twin INTEGER)")
            base.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(n, n) for n in range(100)])
            base.commit()
    return data


def rows(path: Path, table: str) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return base.execute(f"SELECT id, twin FROM {table} ORDER BY id").fetchall()


def test_what_is_restored_is_what_was_saved(data: Path, archive: Archive, tmp_path: Path) -> None:
    said = save(data, tmp_path / "backup", [archive.url])
    assert any(line.startswith("archive") for line in said)
    restore(tmp_path / "new", tmp_path / "backup", into=str(tmp_path / "there"))
    for place, table in (("prefect/prefect.db", "flow_run"), ("mlflow.db", "experiments")):
        assert rows(tmp_path / "new" / place, table) == rows(data / place, table)
    assert (tmp_path / "new/mlflow-artifacts/1/model.bin").read_bytes() == b"weights"
    back = Archive.open(str(tmp_path / "there/korea/archive.zarr"))
    assert not validate(back.url).problems
    np.testing.assert_array_equal(back.status, archive.status)
    assert back.digest([0, 1, 2, 200]) == archive.digest([0, 1, 2, 200])


def test_archives_of_two_presets_stay_two(data: Path, archive: Archive, tmp_path: Path) -> None:
    other = make(str(tmp_path / "japan" / "archive.zarr"), seed=5)
    save(data, tmp_path / "backup", [archive.url, other.url])
    restore(tmp_path / "new", tmp_path / "backup", into=str(tmp_path / "there"))
    for name, was in (("korea", archive), ("japan", other)):
        back = Archive.open(str(tmp_path / "there" / name / "archive.zarr"))
        assert back.digest([0, 1, 2, 200]) == was.digest([0, 1, 2, 200])


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.toml")), ids=lambda path: path.stem)
def test_an_archive_restored_into_a_folder_called_data_lies_where_its_preset_looks(preset: Path) -> None:
    archive = load(preset).ingest.archive  # to be found from the folder above
    assert _targets([archive], "/elsewhere/data") == {archive: f"/elsewhere/{archive}"}


def test_two_archives_are_never_restored_to_one_place(data: Path, archive: Archive, tmp_path: Path) -> None:
    other = make(str(tmp_path / "elsewhere" / "korea" / "archive.zarr"), seed=5)
    save(data, tmp_path / "backup", [archive.url, other.url])
    with pytest.raises(FewcastError, match="two archives would be restored to one place"):
        restore(tmp_path / "new", tmp_path / "backup", into=str(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_where_there_is_no_stack_archives_alone_are_saved_and_restored(
    data: Path, archive: Archive, tmp_path: Path
) -> None:
    backup, there = tmp_path / "backup", str(tmp_path / "there")
    save(data, backup)  # what an earlier backup left in the folder is no part of this one
    [line] = save(tmp_path / "nothing", backup, [archive.url])
    assert line.startswith(f"archive {archive.url}: ")
    [line] = restore(data, backup, into=there)  # beside records, which it leaves as they are
    assert line.startswith(f"archive {there}/korea/archive.zarr: ")
    assert Archive.open(f"{there}/korea/archive.zarr").digest([0, 1, 2, 200]) == archive.digest([0, 1, 2, 200])
    assert restore(tmp_path / "new", backup, into=str(tmp_path / "elsewhere"))
    assert not (tmp_path / "new").exists()


def test_saved_again_it_copies_what_has_changed_and_forgets_what_went(
    data: Path, archive: Archive, tmp_path: Path
) -> None:
    def copied() -> int:
        [line] = [line for line in save(data, tmp_path / "backup", [archive.url]) if line.startswith("archive")]
        return int(line.split(": ")[1].split()[0])

    first = copied()
    assert copied() == 0
    write(archive, 3)
    write(archive, 1, seed=7)  # published again
    assert 0 < copied() < first
    restore(tmp_path / "new", tmp_path / "backup", into=str(tmp_path / "there"))
    back = Archive.open(str(tmp_path / "there/korea/archive.zarr"))
    assert back.digest([0, 1, 2, 3, 200]) == archive.digest([0, 1, 2, 3, 200])


def test_a_database_that_is_written_meanwhile_is_saved_between_transactions(data: Path, tmp_path: Path) -> None:
    end = threading.Event()

    def scribble() -> None:
        with closing(sqlite3.connect(data / "mlflow.db", timeout=30)) as base:
            n = 1000
            while not end.is_set():
                base.execute("INSERT INTO experiments VALUES (?, NULL)", (n,))
                base.execute("UPDATE experiments SET twin = id WHERE twin IS NULL")
                base.commit()
                n += 1

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        save(data, tmp_path / "backup")
    finally:
        end.set()
        writer.join()
    saved = rows(tmp_path / "backup" / "mlflow.db", "experiments")
    assert len(saved) >= 100
    assert all(one == twin for one, twin in saved)


def test_an_archive_that_is_being_written_is_not_taken_for_whole(
    data: Path, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.backup.PATIENCE_SECONDS", 0)
    save(data, tmp_path / "backup", [archive.url])
    with exclusive(open_objects(archive.url)), pytest.raises(FewcastError, match="is being written"):
        save(data, tmp_path / "backup", [archive.url])
    assert not (tmp_path / "backup" / "backup.json").exists()
    with pytest.raises(FewcastError, match="no finished backup"):
        restore(tmp_path / "new", tmp_path / "backup")


def test_an_ingest_at_work_is_waited_for(data: Path, archive: Archive, tmp_path: Path) -> None:
    with ExitStack() as writing:
        writing.enter_context(exclusive(open_objects(archive.url)))
        threading.Timer(0.5, writing.pop_all().close).start()
        assert any(line.startswith("archive") for line in save(data, tmp_path / "backup", [archive.url]))


def test_nothing_is_restored_over_what_is_there(data: Path, archive: Archive, tmp_path: Path) -> None:
    save(data, tmp_path / "backup", [archive.url])
    with pytest.raises(FewcastError, match=r"where nothing is.*mlflow\.db"):
        restore(data, tmp_path / "backup", into=str(tmp_path / "there"))
    with pytest.raises(FewcastError, match=r"where nothing is.*archive\.zarr"):
        restore(tmp_path / "new", tmp_path / "backup")
    with pytest.raises(FewcastError, match="no records to save"):
        save(tmp_path / "nothing", tmp_path / "other")
    with pytest.raises(FewcastError, match="no archive to save"):
        save(data, tmp_path / "other", [str(tmp_path / "nothing")])
