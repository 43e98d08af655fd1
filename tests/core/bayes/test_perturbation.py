"""Each perturbation against plain weight sampling and against closed forms."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.bayes.perturbation import Perturbation
from core.config import InnerConfig, TrainConfig
from core.meta.learner import Learner

SAMPLES = 4000


def gaussians(network: nn.Module):
    g = torch.Generator().manual_seed(0)
    mean = {n: p.detach() for n, p in network.named_parameters()}
    log_std = {n: -1 + 0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype) for n, p in mean.items()}
    return mean, log_std


def outputs(network: nn.Module, x: torch.Tensor, choice, samples: int = SAMPLES):
    mean, log_std = gaussians(network)
    perturbation = Perturbation(network, choice, batched=True)
    noise = perturbation.draw(mean, log_std, x, torch.Generator().manual_seed(1), samples)
    return perturbation.outputs(mean, log_std, noise, x)


def layer(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    g = torch.Generator().manual_seed(2)
    if kind == "linear":
        return nn.Linear(5, 3).double(), torch.randn(4, 2, 5, generator=g, dtype=torch.float64)
    options = dict(padding=1, padding_mode="circular") if kind == "circular" else dict(stride=2, groups=2, bias=False)
    return nn.Conv2d(4, 6, 3, **options).double(), torch.randn(3, 4, 5, 7, generator=g, dtype=torch.float64)


def closed_form(module: nn.Module, x: torch.Tensor):
    """Mean and variance of a layer that is linear in independent Gaussian weights."""
    mean, log_std = gaussians(module)
    square = {n: (2 * s).exp() for n, s in log_std.items()}
    return torch.func.functional_call(module, mean, (x,)), torch.func.functional_call(module, square, (x.square(),))


@pytest.mark.parametrize("kind", ["linear", "circular", "grouped"])
@pytest.mark.parametrize("choice", ["weight", "flipout", lambda name, module: "local"])
def test_each_output_has_the_exact_mean_and_variance(kind, choice):
    module, x = layer(kind)
    network = nn.Sequential(module)
    draws = outputs(network, x, choice)
    mean, variance = closed_form(module, x)
    assert torch.all((draws.mean(0) - mean).abs() < 5 * torch.sqrt(variance / SAMPLES))
    ratio = draws.var(0) / variance
    assert torch.all((ratio - 1).abs() < 6 * math.sqrt(2 / SAMPLES))
    # perturbed at all, and not twice
    assert len(Perturbation(network, choice)._methods) == (choice != "weight")


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack((a, b)))[0, 1].item()


@pytest.mark.parametrize("kind", ["linear", "circular"])
def test_only_weight_sampling_correlates_examples(kind):
    module, x = layer(kind)
    x = torch.cat((x[:1], x[:1]))  # the same example twice
    found = {c: outputs(nn.Sequential(module), x, c)[:, :, 0].flatten(2)[..., 0] for c in ("weight", "flipout")}
    assert correlation(*found["weight"].T) > 0.999
    assert abs(correlation(*found["flipout"].T)) < 0.1


def test_flipout_keeps_the_correlation_between_pixels_and_local_on_a_convolution_does_not():
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(2, 1, 1).double()), torch.ones(1, 2, 3, 3, dtype=torch.float64)
    for choice, low, high in (("flipout", 0.999, 1.001), (lambda name, module: "local", -0.1, 0.1)):
        draws = outputs(network, x, choice)[:, 0, 0]
        assert low < correlation(draws[:, 0, 0], draws[:, 2, 1]) < high


def test_local_leaves_convolutions_alone_unless_named():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(27, 2))
    assert set(Perturbation(network, "local")._methods) == {"2"}
    assert set(Perturbation(network, "flipout")._methods) == {"0", "2"}
    assert set(Perturbation(network, lambda name, m: "flipout" if name == "0" else "weight")._methods) == {"0"}


class Awkward(nn.Module):
    """Layers that no method knows (a bare parameter, a transposed convolution), and one that runs twice."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.twice = nn.Conv2d(2, 2, 3, padding=1)
        self.up = nn.ConvTranspose2d(2, 2, 2, stride=2)
        self.last = nn.Conv2d(2, 1, 1)

    def forward(self, x):
        return self.last(self.up(torch.tanh(self.twice(torch.tanh(self.twice(x)))) * self.gain))


def test_unknown_and_repeated_layers_fall_back_to_weight_sampling():
    torch.manual_seed(0)
    network = Awkward().double()
    x = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, log_std = gaussians(network)
    perturbation = Perturbation(network, "flipout")
    noise = perturbation.draw(mean, log_std, x, torch.Generator().manual_seed(0), 2)
    assert {name for name in noise if ":" in name} == {"last:in", "last:out"}
    plain, flipped = (outputs(network, x, choice) for choice in ("weight", "flipout"))
    spread = plain.std(0) / math.sqrt(SAMPLES)
    assert torch.all((plain.mean(0) - flipped.mean(0)).abs() < 7 * spread)
    torch.testing.assert_close(plain.std(0), flipped.std(0), rtol=0.1, atol=0)


@pytest.mark.parametrize("choice", ["weight", "flipout"])
def test_one_vmap_over_samples_equals_the_loop(choice):
    module, x = layer("circular")
    network = nn.Sequential(module, nn.GroupNorm(2, 6), nn.SiLU()).double()
    mean, log_std = gaussians(network)
    perturbation, together = (Perturbation(network, choice, antithetic=True, batched=b) for b in (False, True))
    noise = perturbation.draw(mean, log_std, x, torch.Generator().manual_seed(1), 5)
    looped = perturbation.outputs(mean, log_std, noise, x)
    torch.testing.assert_close(together.outputs(mean, log_std, noise, x), looped)


@pytest.mark.parametrize("choice", ["flipout", "local"])
def test_exact_modes_agree_under_every_perturbation(choice):
    g = torch.Generator().manual_seed(0)

    def windows():
        x = torch.randn(1, 3, 2, 4, 6, generator=g, dtype=torch.float64)
        return SimpleNamespace(x=x, y=x[:, :, :1] + 1, mask=torch.ones_like(x[:, :, :1], dtype=torch.bool))

    data = SimpleNamespace(support=windows(), query=windows(), ids=(0,))
    found = []
    for mode in ("unrolled", "checkpointed", "mixed"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.SiLU(), nn.Linear(6, 6), nn.Conv2d(3, 1, 1)).double()
        inner = InnerConfig(steps=2, rate=0.3, samples=2, perturbation=choice, antithetic=True)
        model = Learner(network, GaussianLikelihood(1), TrainConfig(gradient=mode, inner=inner, initial_log_std=-1))
        gradient, _ = model.gradient(model.init_state(), data, seed=0)
        found.append(torch.cat([leaf.flatten() for leaf in gradient.values()]))
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-10 * found[0].norm()


def test_local_stays_finite_where_the_inputs_vanish():
    network = nn.Sequential(nn.Linear(3, 2, bias=False))
    mean, log_std = gaussians(network)
    leaf = log_std["0.weight"].requires_grad_()
    perturbation, x = Perturbation(network, "local"), torch.zeros(2, 3)
    noise = perturbation.draw(mean, log_std, x, torch.Generator().manual_seed(0), 1)
    loss = perturbation.outputs(mean, log_std, noise, x).square().sum()
    first = torch.autograd.grad(loss, leaf, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), leaf)[0]
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()
