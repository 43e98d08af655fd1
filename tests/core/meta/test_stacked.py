"""A stack of episodes against the same episodes one by one."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta.checks import DivergedError
from core.meta.learner import Learner
from core.meta.meta_gradient import run_inner_loop
from core.meta.stacked import StackedEpisodes
from tests.core.meta.small_learner import INNER, batch, learner

SETTINGS: dict[str, dict] = {
    "plain": dict(inner=INNER),
    "clipped, Flipout": dict(inner=InnerConfig(steps=2, rate=0.2, clip=0.05, samples=2, perturbation="flipout")),
    "multi-step, both sets": dict(
        inner=INNER, outer=OuterConfig(objective="support_and_query", multi_step_steps=5, hyper_prior=True)
    ),
    "maml": dict(inner=INNER, learner="maml"),
    "pooled": dict(inner=INNER, learner="pooled"),
}


@pytest.mark.parametrize("mode", ["unrolled", "checkpointed", "mixed", "first_order"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_stack_has_the_summed_gradient_and_metrics_of_its_episodes(name, mode):
    stacked, alone = (learner(gradient=mode, execution=how, **SETTINGS[name]) for how in ("stacked", "eager"))
    state = alone.init_state()
    expected, metrics = alone.gradient(state, batch(), seed=3)
    found, summed = stacked.gradient(state, batch(), seed=3)
    difference = torch.cat([(found[n] - leaf).flatten() for n, leaf in expected.items()])
    assert difference.norm() <= 1e-10 * torch.cat([leaf.flatten() for leaf in expected.values()]).norm()
    assert summed.keys() == metrics.keys()
    for key, value in metrics.items():
        torch.testing.assert_close(summed[key], value, rtol=1e-12, atol=1e-12)


def test_a_stack_adapts_each_episode_as_it_would_alone():
    model, data = learner(inner=InnerConfig(steps=3, rate=0.2, clip=0.1)), batch()
    theta = model.init_state().theta
    episodes = model._problems(model.init_state(), data, seed=0)
    together, summed = run_inner_loop(StackedEpisodes.of(episodes, theta), theta)
    for row, episode in enumerate(episodes):
        alone, data_terms = run_inner_loop(episode, theta)
        summed = summed - data_terms
        for name, leaf in alone.items():
            torch.testing.assert_close(together[name][row], leaf, rtol=1e-12, atol=1e-12)
    assert summed.abs().max() < 1e-12


def test_one_episode_that_diverges_stops_the_stack():
    model, data = learner(inner=InnerConfig(steps=6, rate=10.0, learn_rates="no"), execution="stacked"), batch()
    data.support.y[1] *= 1e150
    with pytest.raises(DivergedError, match="inner loop diverged"):
        model.gradient(model.init_state(), data, seed=0)


def test_dense_layers_under_local_reparametrisation_stack_too():
    g = torch.Generator().manual_seed(0)

    def windows() -> SimpleNamespace:
        x = torch.randn(4, 6, 1, 3, 5, generator=g, dtype=torch.float64)
        return SimpleNamespace(x=x, y=x.sin(), mask=torch.rand(x.shape, generator=g) > 0.3)

    data, found = SimpleNamespace(support=windows(), query=windows(), ids=(4, 1, 2, 9)), []
    for how in ("eager", "stacked"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 5)).double()
        inner = InnerConfig(steps=2, rate=0.1, perturbation="local", samples=2, antithetic=True)
        model = Learner(network, GaussianLikelihood(1), TrainConfig(inner=inner, initial_log_std=-1, execution=how))
        found.append(model.gradient(model.init_state(), data, seed=0)[0])
    for name, leaf in found[0].items():
        torch.testing.assert_close(found[1][name], leaf, rtol=1e-10, atol=1e-12)
