"""Adaptation against the closed-form answers of Bayesian linear regression."""

import math
from functools import cache

import pytest
import torch
from torch import nn

from core.bayes.gaussian import DiagonalGaussian, kl_divergence, kl_gradient
from core.bayes.likelihood import Predictive
from core.config import InnerConfig, TrainConfig
from core.meta import inner_loop
from core.meta.checks import DivergedError, Examples
from core.meta.inner_loop import clip_scale
from core.meta.learner import Learner

STD = 0.5  # of the observations
FEATURES = 3


class KnownNoise:
    """A likelihood without parameters: the library asks for nothing that this has not."""

    score = "nll"

    def initial(self):
        return {}

    def loss(self, prediction, target, mask, parameters):
        return (0.5 * ((target - prediction) / STD).square() + math.log(STD) + 0.5 * math.log(2 * math.pi)).sum()

    def predictive(self, prediction, parameters):
        return Predictive(prediction, torch.tensor(STD))


@cache
def regression(steps: int, rate: float, samples: int = 64, clip: float = 0.0):
    torch.manual_seed(1)
    network = nn.Linear(FEATURES, 1, bias=False).double()
    inner = InnerConfig(samples=samples, antithetic=True, learn_rates="no", rate=rate, clip=clip)
    config = TrainConfig(initial_log_std=-0.3, inner=inner)
    learner = Learner(network, KnownNoise(), config)
    x = torch.randn(12, FEATURES, dtype=torch.float64) * torch.tensor([1.0, 0.5, 1.5])
    support = Examples(x, x @ torch.tensor([[1.0], [-2.0], [0.3]]).double() + STD * torch.randn(12, 1).double())
    state = learner.init_state()
    return support, state, learner.posterior(state, support, steps=steps)


def exact_posterior(support, state):
    prior_mean, prior_precision = state.theta["mean/weight"][0], torch.exp(-2 * state.theta["log_std/weight"][0])
    precision = torch.diag(prior_precision) + support.x.T @ support.x / STD**2
    mean = torch.linalg.solve(precision, prior_precision * prior_mean + support.x.T @ support.y[:, 0] / STD**2)
    return mean, precision


def test_linear_regression_converges_to_the_exact_mean_field_posterior():
    support, state, posterior = regression(steps=400, rate=0.1)
    mean, precision = exact_posterior(support, state)
    torch.testing.assert_close(posterior.mean["weight"][0], mean, rtol=1e-3, atol=1e-3)
    # the best factorised Gaussian has the exact posterior's conditional variances: 1 / diag(precision)
    std = precision.diagonal().rsqrt()
    torch.testing.assert_close(posterior.log_std["weight"][0].exp(), std, rtol=0.06, atol=0)


@pytest.mark.parametrize("steps", [0, 1, 20, 400])
def test_elbo_stays_below_the_log_evidence(steps):
    support, state, posterior = regression(steps=steps, rate=0.1)
    prior = DiagonalGaussian({"w": state.theta["mean/weight"]}, {"w": state.theta["log_std/weight"]})
    q = DiagonalGaussian({"w": posterior.mean["weight"]}, {"w": posterior.log_std["weight"]})
    residual = support.y - support.x @ q.mean["w"].T
    spread = (support.x.square() @ torch.exp(2 * q.log_std["w"]).T).sum()
    expected_nll = 0.5 * (residual.square().sum() + spread) / STD**2 + len(support.y) * math.log(
        STD * math.sqrt(2 * math.pi)
    )
    elbo = -expected_nll - kl_divergence(q, prior)
    covariance = STD**2 * torch.eye(12).double() + support.x * torch.exp(2 * prior.log_std["w"]) @ support.x.T
    evidence = torch.distributions.MultivariateNormal((support.x @ prior.mean["w"].T)[:, 0], covariance).log_prob(
        support.y[:, 0]
    )
    gap = evidence - elbo
    assert gap > 0
    if steps == 400:  # what is left is the mean-field gap, (log det precision vs its diagonal) / 2
        _, precision = exact_posterior(support, state)
        mean_field_gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
        assert gap == pytest.approx(mean_field_gap.item(), abs=0.02)


@pytest.mark.parametrize(("kl_weight", "computed"), [(1.0, 3), (0.0, 0)])
def test_the_kl_is_skipped_where_it_is_exactly_zero(monkeypatch, kl_weight, computed):
    """At step 0 the posterior is the prior; without a weight there is no KL at all."""
    calls = []
    monkeypatch.setattr(inner_loop, "kl_gradient", lambda q, p: calls.append(q) or kl_gradient(q, p))
    learner = Learner(
        nn.Linear(2, 1), KnownNoise(), TrainConfig(inner=InnerConfig(steps=4, rate=0.01, kl_weight=kl_weight))
    )
    learner.posterior(learner.init_state(), Examples(torch.ones(3, 2), torch.ones(3, 1)))
    assert len(calls) == computed


def test_an_empty_support_returns_the_prior():
    torch.manual_seed(0)
    learner = Learner(nn.Linear(2, 1), KnownNoise(), TrainConfig(inner=InnerConfig(steps=3)))
    state = learner.init_state()
    posterior = learner.posterior(state, Examples(torch.zeros(0, 2), torch.zeros(0, 1)))
    assert torch.equal(posterior.mean["weight"], state.theta["mean/weight"])
    assert torch.equal(posterior.log_std["weight"], state.theta["log_std/weight"])
    assert len(posterior.support) == 0


def test_a_rate_that_diverges_is_named():
    with pytest.raises(DivergedError, match=r"before step .*lower train\.inner\.rate"):
        regression(steps=300, rate=10.0, samples=2)


def test_clipping_bounds_the_length_of_a_step_and_leaves_short_ones_alone():
    g = torch.Generator().manual_seed(0)
    direction = {"a": torch.randn(3, 2, generator=g).double(), "b": torch.randn(4, generator=g).double()}
    norm = torch.sqrt(sum(leaf.square().sum() for leaf in direction.values()))
    torch.testing.assert_close(clip_scale(direction, norm.item() / 3), torch.tensor(1 / 3).double())
    assert clip_scale(direction, norm.item() * 2) == 1
    assert clip_scale({"a": torch.zeros(2)}, 1.0) == 1
    _, state, posterior = regression(steps=1, rate=1.0, clip=0.01)
    moved = (posterior.mean["weight"] - state.theta["mean/weight"]).square().sum()
    moved = moved + (posterior.log_std["weight"] - state.theta["log_std/weight"]).square().sum()
    assert moved.sqrt() == pytest.approx(0.01, rel=1e-6)
