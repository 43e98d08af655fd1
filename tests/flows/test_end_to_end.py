"""The whole pipeline by its command, in a process of its own, with the embedded defaults."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray

from core.archive import Archive
from tasks.tracking import read_delivered
from tasks.tracking.server import open_client

TINY = Path(__file__).with_name("tiny.toml")


def environment() -> dict[str, str]:
    """As on a fresh machine: nothing of prefect's or MLflow's is set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def fewcast(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)


def pipeline(folder: Path, *changes: str) -> "subprocess.CompletedProcess[str]":
    sets = [word for change in changes for word in ("--set", change)]
    return fewcast(folder, "pipeline", "--config", str(TINY), *sets)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def first(folder: Path) -> "subprocess.CompletedProcess[str]":
    done = pipeline(folder)
    assert done.returncode == 0, done.stderr
    return done


def test_one_command_makes_everything_and_says_where(folder: Path, first: "subprocess.CompletedProcess[str]") -> None:
    assert "Traceback" not in first.stderr
    for place in ("archive", "episodes", "run", "scorecard", "mlflow"):
        assert any(line.startswith(place) for line in first.stdout.splitlines()), first.stdout
    assert "crps" in first.stdout.lower()
    assert "\ndressed persistence " in first.stdout
    with xarray.open_zarr(str(folder / "data/tiny/archive.zarr"), mask_and_scale=False) as archive:
        assert int((archive["status"] == 1).sum()) == 36
    assert Archive.open(str(folder / "data/tiny/archive.zarr"))


def test_prefect_has_a_run_for_each_stage(folder: Path, first: "subprocess.CompletedProcess[str]") -> None:
    with sqlite3.connect(folder / "data/prefect/prefect.db") as database:
        states = database.execute("select f.name, r.state_type from flow_run r join flow f on f.id = r.flow_id")
        assert sorted(states) == [(s, "COMPLETED") for s in ("episodes", "evaluate", "ingest", "pipeline", "train")]


def test_mlflow_has_the_training_with_its_evaluation_inside(
    folder: Path, first: "subprocess.CompletedProcess[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(f"sqlite:///{folder / 'data/mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"train abml", "evaluate test"}
    train, evaluate = runs["train abml"], runs["evaluate test"]
    assert evaluate.data.tags["mlflow.parentRunId"] == train.info.run_id
    for run in (train, evaluate):
        assert run.info.status == "FINISHED"
        assert len(run.data.tags["prefect.flow_run_id"]) == 36
        assert run.data.metrics
    assert train.data.params["inner.steps"] == "1"
    assert [file.path for file in client.list_artifacts(train.info.run_id, "checkpoint")]
    assert [file.path for file in client.list_artifacts(evaluate.info.run_id, "scorecard")]


def test_a_second_run_skips_what_is_done(folder: Path, first: "subprocess.CompletedProcess[str]") -> None:
    run = folder / "data/tiny/run"
    before = {
        path: path.stat().st_mtime_ns for path in (folder / "data/tiny/archive.zarr").rglob("*") if path.is_file()
    }
    training = read_delivered(run / "tracking").run_id
    again = pipeline(folder)
    assert again.returncode == 0, again.stderr
    assert "frames: 36 skipped" in again.stderr
    assert again.stdout == first.stdout
    assert read_delivered(run / "tracking").run_id == training
    assert (
        before.items()
        <= {
            path: path.stat().st_mtime_ns for path in (folder / "data/tiny/archive.zarr").rglob("*") if path.is_file()
        }.items()
    )


def test_a_source_without_granules_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "granules").mkdir()
    done = pipeline(tmp_path, "ingest.simulator.enabled=false", "ingest.source=granules")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("fewcast: ")] == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data/tiny/archive.zarr").exists()


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("simulate", marks=pytest.mark.soak),
        pytest.param("ingest", marks=pytest.mark.soak),
        "episodes",
        pytest.param("train", marks=pytest.mark.soak),
        pytest.param("evaluate", marks=pytest.mark.soak),
    ],
)
def test_killed_in_a_stage_and_run_again_it_completes(tmp_path: Path, stage: str) -> None:
    """kill -9 soon after the stage begins, told by what lies there then; the whole process group, as a lost machine."""
    begins = {
        "simulate": "data/tiny/granules",
        "ingest": "data/tiny/archive.zarr",
        "episodes": "data/tiny/episodes.zarr",
        "train": "data/tiny/run",
        "evaluate": "data/tiny/run/tracking/delivered.json",
    }[stage]
    command = [sys.executable, "-m", "flows.cli", "pipeline", "--config", str(TINY)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 100
        while not (tmp_path / begins).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / begins).exists(), (tmp_path / "log").read_text()
    again = pipeline(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "crps" in again.stdout.lower()
