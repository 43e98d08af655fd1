"""The outer step size: its shape, and that it is a function of the step."""

import pytest

from core.config import TrainConfig
from core.training.schedule import fitted, fraction_that_fits, is_pretraining, learning_rate, total_steps


def test_each_phase_warms_up_and_falls():
    config = TrainConfig(pretrain_steps=100, steps=40, warmup_steps=10, pretrain_rate=0.2, learning_rate=0.1)
    assert total_steps(config) == 140
    rates = [learning_rate(config, step) for step in range(140)]
    assert rates[0] == pytest.approx(0.02)
    assert max(rates[:100]) == rates[9] == rates[10] == 0.2
    assert rates[99] == pytest.approx(0.2 * 0.01, rel=0.05)
    assert rates[100] == pytest.approx(0.01)
    assert max(rates[100:]) == 0.1
    assert sorted(rates[10:100], reverse=True) == rates[10:100]
    assert [is_pretraining(config, step) for step in (99, 100)] == [True, False]


def test_without_decay_it_is_flat_and_a_short_phase_still_warms_up():
    config = TrainConfig(steps=6, warmup_steps=50, learning_rate=0.3, decay="none")
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3, 0.3])


def test_steps_are_fitted_to_the_budget_in_twentieths():
    config = TrainConfig(pretrain_steps=1000, steps=100, budget_minutes=10)
    assert fraction_that_fits(config, 0.1, 1.0) == 1.0  # 200 s of 510
    assert fraction_that_fits(config, 0.5, 5.0) == 0.5  # 1000 s
    assert fraction_that_fits(config, 100.0, 1000.0) == 0.05
    half = fitted(config, 0.5)
    assert (half.pretrain_steps, half.steps) == (500, 50)
    assert fitted(config, 1.0) == config
