"""The flow of training follows the schedule's rule where it is asked to."""

from pathlib import Path
from typing import Any

import pytest

from core.config import TrackingConfig, TrainConfig
from core.training.train import TrainSummary
from flows.train import tasks, train


def test_a_renewed_training_is_what_latest_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def segment(config: TrainConfig, *_: Any) -> TrainSummary:
        Path(config.run).mkdir(exist_ok=True)
        return TrainSummary(config.run, 8, True, "its steps", 8)

    due = str(tmp_path / "run.20260301T0300Z")
    monkeypatch.setattr(tasks, "renew", lambda config, _: config.model_copy(update={"run": due}))
    monkeypatch.setattr(tasks, "train", segment)
    config = TrainConfig(run=str(tmp_path / "run"))
    assert train.fn(config, TrackingConfig()).run == config.run
    assert not (tmp_path / "run.latest").is_symlink()
    assert train.fn(config, TrackingConfig(), renew=True).run == due
    assert (tmp_path / "run.latest").resolve() == Path(due)
