import numpy as np
import pytest
import torch
from scipy import stats

from core.verify.mixture import Mixture, noise_field
from tests.core.devices import needs_cuda


@pytest.fixture(params=["per lead", "per sample"])
def mixture(request):
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(4, 2, 3, 5, 7, generator=generator, dtype=torch.float64)
    shape = (3, 1, 1) if request.param == "per lead" else means.shape
    return Mixture(means, torch.rand(shape, generator=generator, dtype=torch.float64) + 0.3)


def _scipy(mixture):
    return stats.norm(mixture.means.numpy(), np.broadcast_to(mixture.std.numpy(), mixture.means.shape))


def test_moments_cdf_and_density_equal_scipy(mixture):
    own, y = _scipy(mixture), torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = own.mean().mean(0)
    second = (own.var() + own.mean() ** 2).mean(0)
    np.testing.assert_allclose(mixture.mean(), mean)
    np.testing.assert_allclose(mixture.variance(), second - mean**2)
    np.testing.assert_allclose(mixture.cdf(y), own.cdf(y.numpy()).mean(0))
    np.testing.assert_allclose(mixture.nll(y), -np.log(own.pdf(y.numpy()).mean(0)))
    np.testing.assert_allclose(mixture.exceedance(0.7), own.sf(0.7).mean(0))


def test_exceedance_keeps_its_digits_far_in_the_tail():
    far = Mixture(torch.zeros(2, 3), torch.tensor(1.0)).exceedance(10.0)
    np.testing.assert_allclose(far, stats.norm.sf(10.0), rtol=1e-4)


@pytest.mark.parametrize("probability", [0.001, 0.25, 0.5, 0.95])
def test_quantile_inverts_the_cdf(mixture, probability):
    np.testing.assert_allclose(mixture.cdf(mixture.quantile(probability)), probability, atol=1e-9)


@pytest.mark.parametrize("probability", [0.0, 1.0, -1.0])
def test_quantile_refuses_what_is_no_probability(mixture, probability):
    with pytest.raises(ValueError, match="between 0 and 1"):
        mixture.quantile(probability)


def test_members_are_seeded_draws_of_the_mixture():
    mixture = Mixture(torch.linspace(-1, 1, 8)[:, None, None].expand(8, 100, 120), torch.tensor(0.7))
    members = mixture.members(torch.Generator().manual_seed(0))
    again = mixture.members(torch.Generator().manual_seed(0))
    assert torch.equal(members, again)
    sample = members.flatten()[::7].numpy()
    assert stats.kstest(sample, lambda z: stats.norm.cdf(z[:, None], np.linspace(-1, 1, 8), 0.7).mean(1)).pvalue > 0.01


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_noise_has_unit_variance_and_the_stated_correlation(device):
    drawn = noise_field((300, 37, 53), torch.Generator(device).manual_seed(0), correlation_pixels=3.0)
    assert drawn.device.type == device
    field = drawn.cpu()
    assert field.shape == (300, 37, 53)
    assert float(field.var()) == pytest.approx(1.0, abs=0.03)
    for distance in (1, 3, 6):
        along_x = (field[..., distance:] * field[..., :-distance]).mean()
        along_y = (field[:, distance:] * field[:, :-distance]).mean()
        expected = np.exp(-(distance**2) / 18)
        assert float(along_x) == pytest.approx(expected, abs=0.03)
        assert float(along_y) == pytest.approx(expected, abs=0.03)
    assert float((field[..., 0] * field[..., -1]).mean()) == pytest.approx(0.0, abs=0.03)  # no wrapping around


def test_noise_of_no_length_is_white():
    field = noise_field((100, 20, 30), torch.Generator().manual_seed(0))
    assert float((field[..., 1:] * field[..., :-1]).mean()) == pytest.approx(0.0, abs=0.02)
