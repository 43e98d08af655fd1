"""Runs in a real MLflow store: complete, one per folder, and never in the way of training."""

import getpass
import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from core.config import TrackingConfig, TrainConfig
from core.errors import AwayError, FewcastError
from core.meta import checkpoint
from tasks.records import tell_checkpoints
from tasks.tracking import TrackedRun, compare, delivery, is_delivered, local_run, read_delivered, start_afresh
from tasks.tracking.journal import Journal
from tasks.tracking.provenance import flatten
from tasks.tracking.server import open_client
from tasks.train import located


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    return TrackingConfig(uri=uri, experiment="test")


@pytest.fixture
def client(tracking: TrackingConfig) -> MlflowClient:
    return open_client(tracking.uri)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.getLogger("tasks.tracking").setLevel(logging.ERROR)
    yield
    logging.getLogger("tasks.tracking").setLevel(logging.NOTSET)


def get(client: MlflowClient, folder: Path) -> Run:
    return client.get_run(read_delivered(folder).run_id)


def test_a_run_and_its_child_are_complete(tmp_path: Path, tracking: TrackingConfig, client: MlflowClient) -> None:
    config = TrainConfig(steps=7)
    parent, child = tmp_path / "parent", tmp_path / "child"
    (tmp_path / "prior").mkdir()
    (tmp_path / "prior" / "theta.txt").write_text("theta")
    with TrackedRun(parent, tracking, "train abml", config, tags={"seen": "yes"}) as run:
        for step in range(2000):
            run.metrics({"loss": 1.0 / (step + 1), "noise[lead 30 min]": 2.0}, step)
        run.figure("loss", Figure(), 3)
        run.artifact(tmp_path / "prior", "checkpoint")
        run.tag({"late": "too"})
    with TrackedRun(child, tracking, "evaluate", config, parent=parent):
        pass
    stored = get(client, parent)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "train abml"
    assert stored.data.params == flatten(config)
    assert stored.data.params["inner.steps"] == "3"
    assert stored.data.tags["seen"] == "yes"
    assert stored.data.tags["late"] == "too"
    assert len(stored.data.tags["mlflow.source.git.commit"].removesuffix("-dirty")) == 40
    lock = Path("requirements.lock").read_bytes()
    assert stored.data.tags["fewcast.lock_digest"] == hashlib.sha256(lock).hexdigest()[:16]
    assert stored.data.tags["mlflow.user"] == getpass.getuser()
    history = client.get_metric_history(stored.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(step, 1.0 / (step + 1)) for step in range(2000)]
    assert "noise_lead 30 min_" in stored.data.metrics
    images = [f.path.split("+timestamp")[0] for f in client.list_artifacts(stored.info.run_id, "images")]
    assert images == ["images/loss+step+3"] * 2  # whole, and small for the page
    assert [f.path for f in client.list_artifacts(stored.info.run_id, "checkpoint")] == ["checkpoint/prior"]
    assert get(client, child).data.tags["mlflow.parentRunId"] == stored.info.run_id


def test_a_resumed_run_goes_on_in_the_same_run(tmp_path: Path, tracking: TrackingConfig, client: MlflowClient) -> None:
    with TrackedRun(tmp_path, tracking, "train", TrainConfig(steps=5)) as run:
        run.metrics({"loss": 0.0}, 0)
    first = read_delivered(tmp_path).run_id
    with TrackedRun(tmp_path, tracking, "train", TrainConfig(steps=5)) as run:
        run.metrics({"loss": 0.0}, 0)
    with suppress(KeyboardInterrupt), TrackedRun(tmp_path, tracking, "train", TrainConfig(steps=9)) as run:
        run.metrics({"loss": 1.0}, 1)
        raise KeyboardInterrupt
    stored = get(client, tmp_path)
    assert stored.info.run_id == first
    assert stored.info.status == "KILLED"
    assert stored.data.params["steps"] == "5"
    assert stored.data.tags["changed.steps"] == "9"
    assert [m.step for m in client.get_metric_history(first, "loss")] == [0, 1]
    with TrackedRun(tmp_path, tracking, "train", TrainConfig(steps=5)):
        pass
    assert "changed.steps" not in get(client, tmp_path).data.tags
    client.delete_run(first)
    with TrackedRun(tmp_path, tracking, "train", TrainConfig(steps=9)):
        pass
    told_again = get(client, tmp_path)
    assert told_again.info.run_id != first
    assert [m.step for m in client.get_metric_history(told_again.info.run_id, "loss")] == [0, 1]
    start_afresh(tmp_path)
    assert read_delivered(tmp_path).run_id == ""


def test_checkpoints_are_told_once_and_are_where_a_fork_may_start(
    tmp_path: Path, tracking: TrackingConfig, client: MlflowClient
) -> None:
    config, run = TrainConfig(run=str(tmp_path)), tmp_path / "tracking"
    meta: dict[str, Any] = {"best_step": 4, "progress": {}, "config": {"fork": "where it began"}}
    for step in (4, 6):
        checkpoint.save(tmp_path, step, {"a": torch.zeros(step)}, meta)
        with TrackedRun(run, tracking, "train", config) as tracked:
            tell_checkpoints(tracked, config, ended=True)
    stored = get(client, run)
    steps = [item.path for item in client.list_artifacts(stored.info.run_id, "checkpoints")]
    assert steps == ["checkpoints/step_00000004", "checkpoints/step_00000006"]
    told = [record["path"][-8:] for record, _ in Journal(run).since(0) if record.get("under") == "checkpoints"]
    assert told == ["00000004", "00000006"]
    for name, step in ((f"runs:/{stored.info.run_id}", 4), (f"runs:/{stored.info.run_id}/{steps[1]}", 6)):
        fork = TrainConfig(run=str(tmp_path / "fork"), fork=name)
        found = checkpoint.read(Path(located(fork, tracking).fork))
        assert found.digest == checkpoint.load(tmp_path, step).digest
    assert located(config.model_copy(update={"fork": name}), tracking).fork == "where it began", "it has a checkpoint"
    for none in (f"{stored.info.run_id}/checkpoints/step_99999999", 32 * "0"):
        with pytest.raises(FewcastError, match=f"there is no checkpoint runs:/{none}: found .*; name a run by its id"):
            local_run(f"runs:/{none}", tracking)


def test_a_server_that_is_away_costs_nothing_and_hears_all_later(
    tmp_path: Path, tracking: TrackingConfig, client: MlflowClient
) -> None:
    away = TrackingConfig(uri="http://127.0.0.1:9", experiment="test")  # the discard port: nobody listens
    began = time.monotonic()
    with TrackedRun(tmp_path, away, "train", TrainConfig(), every_seconds=0.1, patience_seconds=2.0) as run:
        for step in range(300):
            run.metrics({"loss": float(step)}, step)
        assert time.monotonic() - began < 10.0  # it does not wait for the server
    assert time.monotonic() - began < 30.0
    assert read_delivered(tmp_path).run_id == ""
    with TrackedRun(tmp_path, tracking, "train", TrainConfig(), patience_seconds=250.0) as run:
        run.metrics({"loss": 300.0}, 300)
    stored = get(client, tmp_path)
    assert [m.step for m in client.get_metric_history(stored.info.run_id, "loss")] == list(range(301))


def test_a_server_that_goes_away_in_mid_run_hears_the_rest_when_it_is_back(
    tmp_path: Path, tracking: TrackingConfig, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert condition()

    refused = []

    def refuse(uri: str) -> MlflowClient:
        refused.append(uri)
        raise MlflowException("connection refused")

    config = TrainConfig()
    with TrackedRun(tmp_path, tracking, "train", config, every_seconds=0.05, patience_seconds=250.0) as run:
        run.metrics({"loss": 0.0}, 0)
        until(lambda: is_delivered(tmp_path))
        with monkeypatch.context() as away:
            away.setattr(delivery, "open_client", refuse)
            run.metrics({"loss": 1.0}, 1)
            until(lambda: len(refused) >= 2)
            assert not is_delivered(tmp_path)
        run.metrics({"loss": 2.0}, 2)
        until(lambda: is_delivered(tmp_path))
    stored = get(client, tmp_path)
    assert stored.info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(stored.info.run_id, "loss")] == [0, 1, 2]


def test_runs_are_compared_where_they_are_by_their_best_scores_first(tmp_path: Path, tracking: TrackingConfig) -> None:
    for name, crps in (("a", 0.4), ("b", 0.2)):
        with TrackedRun(tmp_path / name / "tracking", tracking, name, TrainConfig(steps=5)) as run:
            run.metrics({"validation/crps": 1.0 - crps, "best/crps": crps, "train/loss": 2.0}, 1)
    rows = [row for row in compare(str(tmp_path / "a"), str(tmp_path / "b"), TrackingConfig())]
    assert rows[:2] == [
        ("best/crps", "0.4", "0.2", "-0.2 (-50.0%)"),
        ("validation/crps", "0.6", "0.8", "+0.2 (+33.3%)"),
    ]


def test_a_server_that_is_silent_is_not_taken_for_one_without_the_run(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(AwayError, match=r"does not say what the run f00d is: .*see that the MLflow server runs"):
        list(compare("f00d", "f00d", TrackingConfig(uri="http://127.0.0.1:9")))  # nobody listens
    with pytest.raises(FewcastError, match="has no run f00d") as none:
        list(compare("f00d", "f00d", tracking))
    assert not isinstance(none.value, AwayError)
