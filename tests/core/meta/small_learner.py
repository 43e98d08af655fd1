"""A small float64 learner, and random episodes with gaps for it."""

from types import SimpleNamespace

import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, TrainConfig
from core.meta.checks import Examples
from core.meta.learner import Learner

INNER = InnerConfig(steps=2, rate=0.2, learn_rates="no")


def network(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1))
    return nn.Sequential(*layers).to(dtype)


def windows(seed: int, episodes: int = 3, dtype=torch.float64) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes, 2, 3, 5, 7, generator=g, dtype=dtype)
    return SimpleNamespace(x=x, y=x[:, :, 1:] * 0.5 + 1, mask=torch.rand(x[:, :, 1:].shape, generator=g) > 0.2)


def batch(episodes: int = 3, dtype=torch.float64) -> SimpleNamespace:
    sets = dict(support=windows(1, episodes, dtype), query=windows(2, episodes, dtype))
    return SimpleNamespace(**sets, ids=tuple(range(episodes)))


def learner(**settings) -> Learner:
    return Learner(network(), GaussianLikelihood(2), TrainConfig(**{"inner": INNER, **settings}))


def first(stack) -> Examples:
    return Examples(stack.x[0], stack.y[0], stack.mask[0])
