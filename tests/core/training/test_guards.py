"""The guards raise for what they name, and for nothing else."""

import math

import pytest
import torch

from core.config import TrainConfig
from core.training.guards import (
    GradientGuard,
    UnhealthyTrainingError,
    check_loss,
    check_prior,
    gradient_norm,
    prior_log_std,
)


def prior(log_std: float):
    return {
        "mean/encoder.0.conv1.weight": torch.zeros(3, 2),
        "log_std/encoder.0.conv1.weight": torch.full((3, 2), log_std),
        "log_std/encoder.0.conv2.weight": torch.full((6,), log_std - 1),
        "log_std/stem.bias": torch.full((4,), -4.5),
        "point/norm.weight": torch.ones(2),
    }


def test_log_std_is_averaged_over_the_weights_of_a_layer():
    assert prior_log_std(prior(-2.0)) == pytest.approx({"encoder.0": -2.5, "stem": -4.5})
    assert prior_log_std({"mean/a": torch.zeros(2)}) == {}


@pytest.mark.parametrize(("log_std", "message"), [(-14.0, r"encoder\.0 collapsed"), (4.0, r"encoder\.0 exploded")])
def test_a_prior_out_of_range_names_the_layer_and_the_mend(log_std, message):
    config = TrainConfig()
    check_prior(prior(-4.5), config, 7)
    with pytest.raises(UnhealthyTrainingError, match=f"{message}.* at step 7.*train\\.learning_rate"):
        check_prior(prior(log_std), config, 7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_prior_that_is_not_finite_and_a_loss_that_is_not(value):
    with pytest.raises(UnhealthyTrainingError, match="exploded"):
        check_prior(prior(value), TrainConfig(), 7)
    with pytest.raises(UnhealthyTrainingError, match="not finite at step 3"):
        check_loss(value, 3)
    check_loss(-1.5, 3)


def explode(guard: GradientGuard, norm: float) -> None:
    for step in range(200, 300):
        guard.check(norm * 1e7, step)


def test_single_spikes_and_slow_growth_pass_but_an_explosion_does_not():
    guard, generator = GradientGuard(), torch.Generator().manual_seed(0)
    norm = 1.0
    for step in range(200):
        norm *= 1.05
        spike = 1e6 if step % 40 == 20 else 1.0
        guard.check(norm * spike * float(0.5 + torch.rand((), generator=generator)), step)
    with pytest.raises(UnhealthyTrainingError, match="meta-gradient exploded at step 204"):
        explode(guard, norm)


def test_gradient_norm_is_over_all_leaves():
    leaves = {"a": torch.full((2, 2), 3.0), "b": torch.tensor([8.0])}
    assert gradient_norm(leaves) == pytest.approx(10.0)
