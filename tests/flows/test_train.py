"""The segments of a training run."""

import pytest

from core.config import TrackingConfig, TrainConfig
from core.training.train import TrainSummary
from flows import train as flow


def test_segments_follow_one_another_until_the_run_has_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [
        TrainSummary("run", 5, False, "the end of its segment", None, seconds={"steps": 1.0}),
        TrainSummary("run", 9, True, "its steps", 9, seconds={"steps": 2.0, "validation": 0.5}),
    ]
    asked = []

    def segment(config: TrainConfig, tracking: TrackingConfig, segment_steps: int) -> TrainSummary:
        asked.append(segment_steps)
        return left.pop(0)

    monkeypatch.setattr(flow.tasks, "train", segment)
    summary = flow.train.fn(TrainConfig(), TrackingConfig(), 5)
    assert asked == [5, 5]
    assert (summary.step, summary.finished) == (9, True)
    assert summary.seconds == {"steps": 3.0, "validation": 0.5}
