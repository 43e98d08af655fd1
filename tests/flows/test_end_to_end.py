"""The whole pipeline by its command, in a process of its own, with the embedded defaults."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import xarray

from core.archive import Archive
from core.config import TrackingConfig
from core.episodes import EpisodeStore
from core.episodes.loader import Loader
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import Examples
from core.model import Model
from flows import cli
from tasks.tracking import BEST, compare, read_delivered
from tasks.tracking.server import open_client

# Real processes: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)
TINY = Path(__file__).with_name("tiny.toml")


def environment() -> dict[str, str]:
    """As on a fresh machine: nothing of prefect's or MLflow's is set."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def fewcast(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)


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
    assert any(name.startswith("crps/test_both/abml") for name in evaluate.data.metrics)
    assert {item.dataset.name for item in train.inputs.dataset_inputs} == {"episodes", "archive"}
    assert train.data.params["inner.steps"] == "1"
    kept = checkpoint.steps(folder / "data/tiny/run")
    stored = {file.path for file in client.list_artifacts(train.info.run_id, "checkpoints")}
    assert stored == {f"checkpoints/step_{step:08d}" for step in kept}
    assert train.data.tags[BEST] in stored
    assert [file.path for file in client.list_artifacts(train.info.run_id, "images")]
    found = {file.path for file in client.list_artifacts(evaluate.info.run_id)}
    assert {"scorecard", "scorecard.json", "cuts.json", "figures", "images"} <= found


def test_the_candidate_in_the_registry_adapts_and_forecasts(
    folder: Path, first: "subprocess.CompletedProcess[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    mlflow.set_tracking_uri("sqlite:///data/mlflow.db")
    model = mlflow.pyfunc.load_model("models:/tiny@candidate")
    version = open_client("sqlite:///data/mlflow.db").get_model_version_by_alias("tiny", "candidate")
    assert "| crps |" in version.description
    store = EpisodeStore.open("data/tiny/episodes.zarr")
    episode = Loader(store, split="train").load([0])
    support, query = episode.support, episode.query
    arrays = {"support_x": support.x, "support_y": support.y, "support_mask": support.mask, "x": query.x}
    forecast = model.predict({name: tensor[0].numpy() for name, tensor in arrays.items()})
    mixture = Model.load("data/tiny/run")
    expected = mixture.predict(mixture.adapt(Examples(support.x[0], support.y[0], support.mask[0])), query.x[0], 20)
    np.testing.assert_allclose(forecast["mean"], expected.mean().numpy(), rtol=1e-5, atol=1e-6)
    assert (forecast["std"] > 0).all()


def test_runs_are_compared(
    folder: Path, first: "subprocess.CompletedProcess[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "data/tiny/run")
    scorecard = read_delivered(folder / "data/tiny/scorecard/tracking").run_id
    uri = f"sqlite:///{folder / 'data/mlflow.db'}"
    rows = list(compare(run, scorecard, TrackingConfig(uri=uri)))
    assert ("learner", "abml", "-", "") in rows
    assert cli.main(["runs", "compare", run, scorecard, "--uri", uri]) == 0
    assert any(line.split() == ["learner", "abml", "-"] for line in capsys.readouterr().out.splitlines())
    assert not [row for row in compare(run, run, TrackingConfig(uri=uri))]
    with pytest.raises(FewcastError, match="has no run"):
        list(compare(run, 32 * "0", TrackingConfig(uri=uri)))


def written(archive: Path) -> dict[Path, int]:
    """When each file of an archive was last written; the lock, which names its last holder, is none of it."""
    return {path: path.stat().st_mtime_ns for path in archive.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_second_run_skips_what_is_done(folder: Path, first: "subprocess.CompletedProcess[str]") -> None:
    run = folder / "data/tiny/run"
    before = written(folder / "data/tiny/archive.zarr")
    training = read_delivered(run / "tracking").run_id
    again = pipeline(folder)
    assert again.returncode == 0, again.stderr
    assert "frames: 36 skipped" in again.stderr
    assert again.stdout == first.stdout
    assert read_delivered(run / "tracking").run_id == training
    assert written(folder / "data/tiny/archive.zarr") == before


def test_a_source_without_granules_is_one_line_and_leaves_nothing(
    folder: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    (folder / "granules").mkdir()
    done = pipeline(folder, "name=empty", "ingest.simulator.enabled=false", "ingest.source=granules")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("fewcast: ")
    assert not (folder / "data/empty/archive.zarr").exists()


def test_sigterm_stops_a_training_with_a_checkpoint_and_leaves_no_server(
    folder: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    run = folder / "data/tiny/stopped"
    command = [sys.executable, "-m", "flows.cli", "train", "--config", str(TINY)]
    command += ["--set", f"train.run={run}", "--set", "train.steps=100000", "--set", "train.validate_every=1000"]
    with (folder / "stopped.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 400
        while not (run / "step_00000004").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        servers = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        code = process.wait(300)
    finally:
        process.kill()
    said = (folder / "stopped.log").read_text()
    assert code == 143, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "fewcast: interrupted; the same command goes on from here"
    stopped = re.search(r"stopped at step (\d+), which has a checkpoint", said)
    assert stopped, said
    assert (run / f"step_{int(stopped[1]):08d}").is_dir()
    assert servers
    assert not [server for server in servers if server.is_running()]
    client = open_client(f"sqlite:///{folder / 'data/mlflow.db'}")
    assert client.get_run(read_delivered(run / "tracking").run_id).info.status == "KILLED"


def test_a_sweep_has_nested_runs_with_their_scores_and_a_table(
    folder: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    done = fewcast(folder, "sweep", "--config", str(TINY), "--set", "train.steps=2", "--set", "train.pretrain_steps=2",
                   "--grid", "train.learning_rate=0.001,0.003")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| train.learning_rate=")]
    assert len(rows) == 2, done.stdout
    scores = [float(row.split("|")[2]) for row in rows]
    assert scores == sorted(scores)
    client = open_client(f"sqlite:///{folder / 'data/mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    [sweep] = [run for run in runs if run.info.run_name.startswith("sweep ")]
    inside = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep.info.run_id]
    assert sorted(run.data.params["learning_rate"] for run in inside) == ["0.001", "0.003"]
    for training in inside:
        [scorecard] = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == training.info.run_id]
        assert scorecard.info.run_name == "evaluate validation"
        assert any(name.startswith("crps/validation") for name in scorecard.data.metrics)
        assert training.info.status == scorecard.info.status == "FINISHED"
        assert client.search_model_versions(f"run_id = '{training.info.run_id}'")
    candidate = client.get_model_version_by_alias("tiny", "candidate").run_id
    assert candidate == read_delivered(folder / "data/tiny/run/tracking").run_id, "no point takes its place"


def test_a_probe_prints_a_suggestion_and_leaves_nothing(
    folder: Path, first: "subprocess.CompletedProcess[str]", monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    run = "data/tiny/probed"
    assert cli.main(["train", "--config", str(TINY), "--probe", "--set", f"train.run={run}"]) == 0
    rate, weight, inner = capsys.readouterr().out.splitlines()
    assert 1e-5 < float(rate.split()[2]) < 0.3
    assert weight.startswith("train.kl_weight = ")
    assert inner.startswith("train.inner.kl_weight = ")
    assert not Path(run).exists()


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
def test_killed_in_a_stage_and_run_again_it_completes(
    folder: Path, first: "subprocess.CompletedProcess[str]", stage: str
) -> None:
    """kill -9 soon after the stage begins, told by what lies there then; the whole process group, as a lost machine."""
    data = folder / "data" / f"killed-{stage}"
    begins = {
        "simulate": data / "granules",
        "ingest": data / "archive.zarr",
        "episodes": data / "episodes.zarr",
        "train": data / "run",
        "evaluate": data / "run/tracking/delivered.json",
    }[stage]
    changes = [f"name={data.name}", f"ingest.source={data}/granules"]
    command = [sys.executable, "-m", "flows.cli", "pipeline", "--config", str(TINY)]
    command += [word for change in changes for word in ("--set", change)]
    with (folder / f"{stage}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while not begins.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert begins.exists(), (folder / f"{stage}.log").read_text()
    again = pipeline(folder, *changes)
    assert again.returncode == 0, again.stderr
    assert "crps" in again.stdout.lower()
