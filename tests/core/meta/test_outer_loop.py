"""The outer loop's pieces against what they state: the optimiser, the first prior, schedules, the hyper-prior."""

import pytest
import torch

from core.config import InnerConfig, OuterConfig
from core.meta.state import LearnerState
from tests.core.meta.small_learner import batch, learner


def test_adam_agrees_with_torch():
    model = learner(outer=OuterConfig(scalar_rate=1.0))
    state = model.init_state()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in state.theta.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=model.config.learning_rate)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = {n: torch.randn(leaf.shape, generator=g, dtype=leaf.dtype) for n, leaf in leaves.items()}
        state = model.apply(state, gradient)
        for name, leaf in leaves.items():
            leaf.grad = gradient[name]
        optimiser.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(state.theta[name], leaf.detach())


def test_moped_starts_from_the_pooled_weights_and_noise():
    pooled = learner(learner="pooled", learning_rate=0.1)
    trained, _ = pooled.step(pooled.init_state(), batch(), seed=0)
    state = learner().init_state(trained)
    for name in ("mean/0.weight", "point/1.weight", "noise/log_std"):
        assert torch.equal(state.theta[name], trained.theta[name])
    assert torch.all(state.theta["log_std/0.weight"] == -4.5)


def test_multi_step_loss_fades_to_the_last_step():
    model = learner(inner=InnerConfig(steps=4), outer=OuterConfig(multi_step_steps=10))
    assert model._outer_weights(0) == pytest.approx({1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25})
    assert sum(model._outer_weights(7).values()) == pytest.approx(1)
    assert model._outer_weights(7)[4] > 0.75
    assert model._outer_weights(10) == {}


def test_first_order_warm_up_then_exact():
    annealed = learner(outer=OuterConfig(first_order_steps=1), gradient="mixed")
    first_order, exact = learner(gradient="first_order"), learner(gradient="mixed")
    state = annealed.init_state()
    for step, reference in ((0, first_order), (1, exact)):
        at = LearnerState(state.theta, state.first_moment, state.second_moment, step)
        found, expected = (m.gradient(at, batch(1), seed=0)[0] for m in (annealed, reference))
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_hyper_prior_is_the_stated_log_density():
    with_it, without = (learner(outer=OuterConfig(hyper_prior=flag)) for flag in (True, False))
    state, data = without.init_state(), batch(1)
    difference = [m.gradient(state, data, seed=0)[1]["loss"] for m in (with_it, without)]
    means = torch.cat([v.flatten() for n, v in state.theta.items() if n.startswith("mean/")])
    stds = torch.cat([v.exp().flatten() for n, v in state.theta.items() if n.startswith("log_std/")])
    normal = (
        -torch.distributions.Normal(0, 1).log_prob(means).sum()
        + torch.distributions.Normal(0, 1).log_prob(torch.zeros_like(means)).sum()
    )
    gamma = -torch.distributions.Gamma(torch.tensor(1.0).double(), 0.01).log_prob(stds**-2)
    gamma = (gamma + torch.tensor(0.01).log()).sum()
    expected = (normal + gamma) / data.query.y[0].numel()
    torch.testing.assert_close(difference[0] - difference[1], expected)
