"""The meta-gradient's modes against each other, against finite differences and against a few plain lines."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta.learner import Learner

INNER = InnerConfig(steps=3, rate=0.2, samples=2)
SETTINGS: dict[str, dict] = {
    "plain": dict(inner=INNER),
    "clipped": dict(inner=INNER.model_copy(update={"clip": 0.05})),
    "fixed rate": dict(inner=INNER.model_copy(update={"learn_rates": "no"})),
    "rate per weight": dict(inner=INNER.model_copy(update={"learn_rates": "entry", "adapt_deterministic": False})),
    "multi-step": dict(inner=INNER, outer=OuterConfig(multi_step_steps=9)),
    "both sets": dict(inner=INNER, outer=OuterConfig(objective="support_and_query", hyper_prior=True)),
    "maml": dict(inner=INNER, learner="maml"),
    "no step": dict(inner=INNER.model_copy(update={"steps": 0})),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 2, 3, padding=1))
    return nn.Sequential(*layers).double()


def windows(seed: int, episodes: int = 2) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes, 2, 3, 5, 7, generator=g, dtype=torch.float64)
    y = torch.randn(episodes, 2, 2, 5, 7, generator=g, dtype=torch.float64)
    mask = torch.rand(y.shape, generator=g) > 0.2
    return SimpleNamespace(x=x, y=torch.where(mask, y, torch.nan), mask=mask)


def batch(episodes: int = 2) -> SimpleNamespace:
    return SimpleNamespace(support=windows(1, episodes), query=windows(2, episodes), ids=tuple(range(7, 7 + episodes)))


def learner(mode: str, **settings) -> Learner:
    return Learner(
        network(), GaussianLikelihood(2), TrainConfig(gradient=mode, samples=2, initial_log_std=-2, **settings)
    )


def flat(tree) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.values()])


@pytest.mark.parametrize("name", SETTINGS)
def test_exact_modes_agree(name):
    reference = None
    for mode in ("unrolled", "checkpointed", "mixed"):
        model = learner(mode, **SETTINGS[name])
        gradient, metrics = model.gradient(model.init_state(), batch(), seed=3)
        found = torch.cat((flat(gradient), metrics["loss"].reshape(1)))
        reference = found if reference is None else reference
        assert (found - reference).norm() <= 1e-10 * reference.norm(), mode
