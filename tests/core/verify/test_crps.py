import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scores.probability import crps_for_ensemble

from core.verify.crps import ensemble_crps, merge_exchange, mixture_crps


@given(n=st.integers(2, 23), seed=st.integers(0, 2**31), rounded=st.booleans())
@settings(max_examples=30, deadline=None)
def test_sorted_ensemble_crps_equals_scores(n, seed, rounded):
    generator = np.random.default_rng(seed)
    members, y = generator.normal(size=(n, 3, 5)), generator.normal(size=(3, 5))
    if rounded:  # ties
        members, y = members.round(0), y.round(0)
    expected = crps_for_ensemble(
        xr.DataArray(members, dims=["m", "y", "x"]),
        xr.DataArray(y, dims=["y", "x"]),
        "m",
        method="fair",
        preserve_dims="all",
    )
    found = ensemble_crps(torch.from_numpy(members), torch.from_numpy(y))
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("n", [*range(2, 13), 20, 33, 64])
def test_the_network_sorts_every_pattern_of_zeros_and_ones(n):
    """By the 0-1 principle that suffices; all patterns of up to 12, and random ones beyond."""
    generator = np.random.default_rng(n)
    cases = np.arange(2**n)[:, None] >> np.arange(n) & 1 if n <= 12 else generator.integers(0, 2, (500, n))
    rows = list(cases.T)
    for i, j in merge_exchange(n):
        rows[i], rows[j] = np.minimum(rows[i], rows[j]), np.maximum(rows[i], rows[j])
    assert (np.diff(np.stack(rows), axis=0) >= 0).all()


def test_many_members_are_sorted_otherwise_with_the_same_result(monkeypatch):
    members, y = torch.randn(30, 4, 50), torch.randn(4, 50)
    score = ensemble_crps(members, y)
    monkeypatch.setattr("core.verify.crps._NETWORK_MEMBERS", 10)
    monkeypatch.setattr("core.verify.crps._BLOCK", 17)
    torch.testing.assert_close(ensemble_crps(members, y), score)


def test_one_member_is_scored_by_its_absolute_error():
    torch.testing.assert_close(ensemble_crps(torch.tensor([[2.0]]), torch.tensor([0.5])), torch.tensor([1.5]))


def test_fair_crps_does_not_depend_on_the_number_of_members_drawn():
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(40_000, generator=generator)
    few, many = (ensemble_crps(torch.randn(n, 40_000, generator=generator), y).mean() for n in (2, 40))
    assert few == pytest.approx(float(many), rel=0.02)
    assert many == pytest.approx(1 / np.sqrt(np.pi), rel=0.02)  # E CRPS of N(0, 1) under itself


def _by_quadrature(means, std, y):
    """CRPS as its definition: the integral of (F(z) - 1{z >= y})^2, on a grid split at y."""
    score = 0.0
    for low, high, step in ((min(y, (means - 12 * std).min()), y, 0.0), (y, max(y, (means + 12 * std).max()), 1.0)):
        z, weights = np.polynomial.legendre.leggauss(400)
        z = 0.5 * (high - low) * (z + 1) + low
        cdf = stats.norm.cdf(z[:, None], means, std).mean(1)
        score += 0.5 * (high - low) * (weights * (cdf - step) ** 2).sum()
    return score


@pytest.mark.parametrize("own_std", [False, True])
def test_mixture_crps_equals_its_defining_integral(own_std):
    generator = np.random.default_rng(3)
    means = generator.normal(size=(5, 2, 7))
    std = generator.uniform(0.2, 1.5, size=(5, 2, 7) if own_std else (2, 7))
    y = generator.normal(size=(2, 7)) * 2
    found = mixture_crps(*(torch.from_numpy(a) for a in (means, std, y)))
    for i in np.ndindex(2, 7):
        expected = _by_quadrature(means[(slice(None), *i)], np.broadcast_to(std, means.shape)[(slice(None), *i)], y[i])
        assert float(found[i]) == pytest.approx(expected, abs=1e-7)


def test_shared_std_broadcasts_per_lead_and_equals_the_same_std_given_per_member():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 3, 6, 5, 7, generator=generator)
    y = torch.randn(3, 6, 5, 7, generator=generator)
    std = torch.rand(6, 1, 1, generator=generator) + 0.1
    torch.testing.assert_close(mixture_crps(means, std, y), mixture_crps(means, std.expand(means.shape), y))
    torch.testing.assert_close(mixture_crps(means, std.expand(1, 3, 6, 5, 7), y), mixture_crps(means, std, y))


def test_blocks_do_not_change_the_result(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    means, y = torch.randn(4, 11, 13, generator=generator), torch.randn(11, 13, generator=generator)
    whole = mixture_crps(means, torch.tensor(0.4), y)
    monkeypatch.setattr("core.verify.crps._PAIR_BLOCK", 10)
    torch.testing.assert_close(mixture_crps(means, torch.tensor(0.4), y), whole)


def test_mixture_crps_without_noise_is_the_plain_ensemble_score():
    generator = torch.Generator().manual_seed(0)
    means, y = torch.randn(6, 50, generator=generator), torch.randn(50, generator=generator)
    pairs = (means[:, None] - means[None]).abs().mean((0, 1))
    torch.testing.assert_close(mixture_crps(means, torch.tensor(0.0), y), (means - y).abs().mean(0) - 0.5 * pairs)


def test_mixture_crps_has_the_gradient_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.2).requires_grad_()
    y = torch.randn(4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: mixture_crps(m, s, y), (means, std))
    assert torch.autograd.gradcheck(lambda m, s: mixture_crps(m, s[0], y), (means, std))
