"""The probe: advice within bounds, nothing written, and sane on a problem whose answer is known."""

import math
from pathlib import Path

import pytest
import torch

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.learner import Learner
from core.meta.state import LearnerState, adam_step
from core.training.probe import best_weight, probe
from core.training.train import train


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
    assert f"train.kl_weight = {found.kl_weight:g} " in found.lines()[1]
    assert f"train.inner.kl_weight = {found.kl_weight:g} " in found.lines()[2], "both were tried together"
    assert not (tmp_path / "run").exists()


@pytest.fixture
def taken(monkeypatch):
    """Every trial step: the state before, the gradient, its step size, and the state after."""
    steps, apply = [], Learner.apply

    def keep(self, state, gradient, *, learning_rate):
        after = apply(self, state, gradient, learning_rate=learning_rate)
        steps.append((state, gradient, learning_rate, after))
        return after

    monkeypatch.setattr(Learner, "apply", keep)
    return steps


def test_from_a_checkpoint_a_step_is_as_long_as_one_of_training(config, taken):
    train(config.model_copy(update={"steps": 3}))
    loaded = LearnerState.from_tensors(checkpoint.load_latest(Path(config.run)).tensors)
    taken.clear()
    probe(config, steps=1)
    before, gradient, rate, after = taken[0]
    assert (before.step, loaded.step) == (3, 3)
    scale = config.outer.scalar_rate
    rates = {name: rate * (scale if name.startswith(("noise/", "log_rate/")) else 1) for name in gradient}
    expected = adam_step(loaded, gradient, rates).theta
    for name, leaf in after.theta.items():
        torch.testing.assert_close(leaf, expected[name], rtol=0, atol=1e-9)


def test_fresh_weights_have_no_moments(config, taken):
    probe(config, steps=1)
    before = taken[0][0]
    assert before.step == 0
    assert not any(leaf.any() for leaf in (*before.first_moment.values(), *before.second_moment.values()))


def test_a_learner_without_a_kl_is_not_asked_for_its_weight(config):
    found = probe(config.model_copy(update={"learner": "pooled"}), steps=6)
    assert found.weights == ()
    assert "unused" in found.lines()[1]


def test_a_pooled_learner_is_tried_on_the_windows_that_it_trains_on(config, monkeypatch):
    seen, gradient = [], Learner.gradient

    def keep(self, state, batch, *, seed):
        seen.append(batch)
        return gradient(self, state, batch, seed=seed)

    monkeypatch.setattr(Learner, "gradient", keep)
    config = config.model_copy(update={"learner": "pooled", "pretrain_windows": 3, "augment": False, "steps": 1})
    probe(config, steps=1)
    tried = seen[0]
    seen.clear()
    train(config)
    assert tried.query.x.shape[:2] == (1, 2 * 3)
    assert tried.support.x.shape[1] == 0
    assert torch.equal(tried.query.x, seen[0].query.x)


def test_the_largest_weight_that_is_as_good_as_the_best_is_advised_and_none_where_all_diverge():
    assert best_weight([(1.0, 0.301), (0.1, 0.3), (0.01, math.inf)]) == 1.0
    assert best_weight([(1.0, math.nan), (0.1, 0.31), (0.01, 0.3)]) == 0.01
    with pytest.raises(FewcastError, match=r"diverges at every KL weight that was tried: found 1, 0\.1; lower"):
        best_weight([(1.0, math.inf), (0.1, math.nan)])


def test_stopping_is_an_error_of_one_line(config):
    with pytest.raises(FewcastError, match="the probe was stopped: found 0 of"):
        probe(config, steps=6, stop=lambda: True)
