"""The probe: advice within bounds, nothing written, and sane on a problem whose answer is known."""

import pytest
import torch

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.errors import FewcastError
from core.training.probe import probe


@pytest.fixture
def config(tiny_store, tmp_path) -> TrainConfig:
    torch.set_num_threads(1)
    return TrainConfig(
        episodes=tiny_store,
        run=str(tmp_path / "run"),
        network=NetworkConfig(width=4, depth=1),
        inner=InnerConfig(steps=1, rate=0.05),
        meta_batch=2,
        validation_episodes=2,
        validation_members=2,
        device="cpu",
    )


def test_advice_is_below_where_the_loss_is_lost_and_nothing_is_written(config, tmp_path):
    found = probe(config, steps=24)
    rates = [rate for rate, _ in found.ramp]
    assert rates == sorted(rates)
    assert 1e-5 / 4 < found.learning_rate < 0.15
    assert [weight for weight, _ in found.weights] == [1.0, 0.1, 0.01]
    assert found.kl_weight in (1.0, 0.1, 0.01)
    assert "train.learning_rate = " in found.lines()[0]
    assert "train.kl_weight = " in found.lines()[1]
    assert not (tmp_path / "run").exists()


def test_a_learner_without_a_kl_is_not_asked_for_its_weight(config):
    found = probe(config.model_copy(update={"learner": "pooled"}), steps=6)
    assert found.weights == ()
    assert "unused" in found.lines()[1]


def test_stopping_is_an_error_of_one_line(config):
    with pytest.raises(FewcastError, match="the probe was stopped: found 0 of"):
        probe(config, steps=6, stop=lambda: True)
