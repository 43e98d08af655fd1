import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.bayes.gaussian import DiagonalGaussian, bayesian_names, branch, graft, kl_divergence, kl_gradient


def random_gaussian(seed: int, spread: float = 1.0) -> DiagonalGaussian:
    g = torch.Generator().manual_seed(seed)
    shapes = {"a.weight": (3, 2), "a.bias": (3,), "scale": ()}

    def tree():
        return {n: spread * torch.randn(s, generator=g, dtype=torch.float64) for n, s in shapes.items()}

    return DiagonalGaussian(tree(), tree())


def test_samples_have_the_stated_moments():
    q = random_gaussian(0)
    draws = q.rsample(torch.Generator().manual_seed(1), 40_000)
    for name, values in draws.items():
        std = q.log_std[name].exp()
        assert torch.all((values.mean(0) - q.mean[name]).abs() < 5 * std / math.sqrt(len(values)))
        assert torch.allclose(values.std(0), std, rtol=0.02)


def test_antithetic_pairs_average_to_the_mean_and_keep_the_variance():
    q = random_gaussian(0)
    draws = q.rsample(torch.Generator().manual_seed(1), 20_000, antithetic=True)
    for name, values in draws.items():
        torch.testing.assert_close(values.mean(0), q.mean[name])
        assert torch.allclose(values.std(0), q.log_std[name].exp(), rtol=0.02)
    odd = q.rsample(torch.Generator().manual_seed(1), 5, antithetic=True)["a.bias"]
    torch.testing.assert_close(odd[:2] + odd[3:], 2 * q.mean["a.bias"].expand(2, 3))


def test_same_generator_state_gives_the_same_bits():
    q = random_gaussian(0)
    first, again = (q.rsample(torch.Generator().manual_seed(5), 3) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_kl_agrees_with_monte_carlo():
    q, p = random_gaussian(2, 0.5), random_gaussian(3, 0.5)
    draws = q.rsample(torch.Generator().manual_seed(4), 200_000)

    def log_density(g: DiagonalGaussian) -> torch.Tensor:
        terms = [torch.distributions.Normal(g.mean[n], g.log_std[n].exp()).log_prob(v) for n, v in draws.items()]
        return torch.stack([t.reshape(len(t), -1).sum(1) for t in terms]).sum(0)

    ratio = log_density(q) - log_density(p)
    assert (ratio.mean() - kl_divergence(q, p)).abs() < 4 * ratio.std() / math.sqrt(len(ratio))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 2))
def test_kl_agrees_with_torch_distributions_and_is_never_negative(seed, spread):
    q, p = random_gaussian(seed, spread), random_gaussian(seed + 1, spread)
    expected = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(q.mean[n], q.log_std[n].exp()),
            torch.distributions.Normal(p.mean[n], p.log_std[n].exp()),
        ).sum()
        for n in q.mean
    )
    torch.testing.assert_close(kl_divergence(q, p), torch.as_tensor(expected))
    assert kl_divergence(q, p) >= 0
    assert kl_divergence(q, q) == 0


def test_kl_keeps_its_digits_close_to_the_prior():
    p = random_gaussian(0)
    d = 1e-9
    q = DiagonalGaussian(p.mean, {n: s + d for n, s in p.log_std.items()})
    count = sum(s.numel() for s in p.log_std.values())
    # KL = d^2 a parameter to leading order: lost entirely if exp(2 d) - 1 - 2 d is computed as written
    assert 0 <= kl_divergence(q, p) <= 10 * count * d**2 + 1e-15
    torch.testing.assert_close(kl_gradient(q, p).log_std["scale"], torch.tensor(2 * d).double(), rtol=1e-6, atol=0)


def test_kl_gradient_is_the_derivative():
    q, p = random_gaussian(5), random_gaussian(6)
    leaves = [t.requires_grad_() for t in (*q.mean.values(), *q.log_std.values())]
    expected = torch.autograd.grad(kl_divergence(q, p), leaves)
    found = kl_gradient(q, p)
    for a, b in zip((*found.mean.values(), *found.log_std.values()), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_norm_affines_are_deterministic_unless_chosen():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)))
    assert bayesian_names(network) == {"0.weight", "0.bias", "2.0.weight", "2.0.bias"}
    only_last = bayesian_names(network, lambda name, owner: isinstance(owner, nn.Linear) and name.endswith("weight"))
    assert only_last == {"2.0.weight"}


def test_branch_and_graft_are_inverse():
    tree = {"a.weight": torch.ones(2), "b": torch.zeros(1)}
    assert branch(graft("mean", tree) | graft("mean_of", tree), "mean").keys() == tree.keys()


def test_different_names_are_refused():
    q = random_gaussian(0)
    with pytest.raises(ValueError, match="same names"):
        DiagonalGaussian(q.mean, {"a.bias": q.log_std["a.bias"]})
    smaller = DiagonalGaussian({"scale": q.mean["scale"]}, {"scale": q.log_std["scale"]})
    with pytest.raises(ValueError, match="different parameters"):
        kl_divergence(q, smaller)
