"""The same command on a training that is finished: MLflow goes on saying what made it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import TrackingConfig, TrainConfig
from core.meta import checkpoint
from core.training.train import TrainSummary
from tasks import train as tasks
from tasks.tracking import is_finished, read_delivered, run
from tasks.tracking.journal import Delivered, Journal
from tasks.tracking.server import open_client

COMMIT = "mlflow.source.git.commit"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """That of a run which has taken its steps; nothing is trained, and no model registered."""
    config = TrainConfig(run=str(tmp_path / "run"), steps=4)
    meta = {"best_step": 4, "progress": {"best_step": 4}, "config": config.model_dump(mode="json")}
    checkpoint.save(Path(config.run), 4, {"a": torch.zeros(1)}, meta)
    done = TrainSummary(config.run, 4, True, "its steps", 4, {"crps": 0.5})
    monkeypatch.setattr(tasks, "train_learner", lambda *_, **__: done)
    for name in ("tell_data", "tell_result", "publish"):
        monkeypatch.setattr(tasks, name, lambda *_, **__: None)
    return config


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test")


def train(config: TrainConfig, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch, commit: str) -> Any:
    """What MLflow has of the run after one more call, from this commit."""
    monkeypatch.setattr(run, "provenance", lambda: {COMMIT: commit})
    assert tasks.train.fn(config, tracking).finished
    return open_client(tracking.uri).get_run(read_delivered(Path(config.run) / "tracking").run_id)


def test_what_is_finished_stays_as_it_was_made(
    config: TrainConfig, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(config, tracking, monkeypatch, "first")
    assert (made.info.status, made.data.tags[COMMIT]) == ("FINISHED", "first")
    again = train(config.model_copy(update={"keep": 7}), tracking, monkeypatch, "second")
    assert (again.info.status, again.info.end_time) == ("FINISHED", made.info.end_time)
    assert again.data.tags == made.data.tags
    assert "changed.keep" not in again.data.tags


def test_what_a_kill_left_open_is_told_to_its_end(
    config: TrainConfig, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is delivered up to the kill, so it is the record of the end that says whether there was one."""
    made, folder = train(config, tracking, monkeypatch, "first"), Path(config.run) / "tracking"
    journal = Journal(folder)
    journal.start({}, {})
    journal.delivered = Delivered(made.info.run_id, tracking.uri, (folder / "journal.jsonl").stat().st_size)
    journal.close()
    assert not is_finished(folder, tracking.uri)
    again = train(config, tracking, monkeypatch, "second")
    assert again.data.tags[COMMIT] == "second"
    assert is_finished(folder, tracking.uri)
    assert not is_finished(folder, "http://another"), "which has heard nothing"


def test_more_steps_are_told(config: TrainConfig, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config, tracking, monkeypatch, "first")
    more = train(config.model_copy(update={"steps": 9}), tracking, monkeypatch, "second")
    assert (more.data.tags[COMMIT], more.data.tags["changed.steps"]) == ("second", "9")
