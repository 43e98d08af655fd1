"""What a learner refuses: bad data, networks with state of their own, rates that diverge."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood, ShapeMismatchError
from core.config import InnerConfig, TrainConfig
from core.meta.checks import DivergedError, NonFiniteDataError, NothingObservedError, UntrackedBuffersError
from core.meta.learner import Learner
from tests.core.meta.small_learner import INNER, batch, learner


def spoil(kind: str) -> SimpleNamespace:
    data = batch(1)
    if kind == "masked":
        data.query.mask[:] = False
    if kind == "nan input":
        data.support.x[0, 1, 0, 2, 3] = torch.nan
    if kind == "nan target":
        data.query.y[data.query.mask] = torch.nan
    if kind == "mask shape":
        data.support.mask = data.support.mask[..., :-1]
    if kind == "count":
        data.query.y = data.query.y[:, :1]
    if kind == "channels":
        data.query.y, data.query.mask = data.query.y[:, :, :1], data.query.mask[:, :, :1]
    return data


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("masked", NothingObservedError, "query set has no observed target pixel"),
        ("nan input", NonFiniteDataError, "support set .* 1 input values; set missing inputs to 0"),
        ("nan target", NonFiniteDataError, "query set .* mask missing targets"),
        ("mask shape", ShapeMismatchError, "support windows do not fit together"),
        ("count", ShapeMismatchError, "as many targets as inputs"),
        ("channels", ShapeMismatchError, "output does not fit the targets"),
    ],
)
def test_bad_data_are_named_with_the_mend(kind, error, words):
    model = learner()
    with pytest.raises(error, match=words):
        model.gradient(model.init_state(), spoil(kind), seed=0)


def test_a_rate_that_diverges_never_reaches_the_prior():
    model = learner(inner=InnerConfig(steps=8, rate=10.0, learn_rates="no"), initial_log_std=1.0)
    big = batch(1)
    big.support.y = big.support.y * 1e150
    with pytest.raises(DivergedError, match=r"train\.inner\.clip"):
        model.step(model.init_state(), big, seed=0)
    state = model.init_state()
    with pytest.raises(DivergedError, match=r"log_std/0\.weight"):
        model.apply(state, {n: leaf * (torch.nan if n == "log_std/0.weight" else 1) for n, leaf in state.theta.items()})


def test_a_network_with_state_of_its_own_is_refused():
    with pytest.raises(UntrackedBuffersError, match=r"'1'.*use GroupNorm"):
        Learner(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), GaussianLikelihood(2), TrainConfig())
    with pytest.raises(UntrackedBuffersError, match="Dropout"):
        Learner(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.1)), GaussianLikelihood(2), TrainConfig())
    batch_statistics = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    Learner(batch_statistics, GaussianLikelihood(2), TrainConfig())


class Counting(nn.Module):
    """A layer that counts its own calls in a buffer, in place or by a new one."""

    def __init__(self, in_place: bool):
        super().__init__()
        self.in_place = in_place
        self.convolution = nn.Conv2d(3, 2, 1).double()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.convolution(x) * self.calls.item()


@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_changes_is_found_out(in_place):
    model = Learner(Counting(in_place), GaussianLikelihood(2), TrainConfig(inner=INNER, gradient="unrolled"))
    with pytest.raises(UntrackedBuffersError, match="'calls'"):
        model.gradient(model.init_state(), batch(1), seed=0)
