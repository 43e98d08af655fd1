import math

import pytest
import torch
from scipy import integrate, stats

from core.bayes.likelihood import GaussianLikelihood, ShapeMismatchError

LEADS, CHANNELS = 3, 2


def case(heads: int = 1):
    g = torch.Generator().manual_seed(0)
    shape = (2, LEADS * CHANNELS, 4, 5)
    prediction = torch.randn(shape[0], heads * shape[1], *shape[2:], generator=g, dtype=torch.float64)
    target = torch.randn(shape, generator=g, dtype=torch.float64)
    mask = torch.rand(shape, generator=g) > 0.3
    parameters = {"log_std": torch.tensor([-0.5, 0.1, 0.4], dtype=torch.float64)}
    return prediction, target, mask, parameters


def test_nll_is_the_normal_log_density_of_observed_pixels():
    prediction, target, mask, parameters = case()
    std = parameters["log_std"].exp().repeat_interleave(CHANNELS).reshape(1, -1, 1, 1)  # (lead, channel) order
    expected = -stats.norm.logpdf(target.numpy(), prediction.numpy(), std.numpy())[mask.numpy()].sum()
    found = GaussianLikelihood(LEADS, CHANNELS).loss(prediction, target, mask, parameters)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_pixel_scale_multiplies_the_lead_noise_and_is_bounded():
    prediction, target, mask, parameters = case(heads=2)
    mean, raw = prediction.chunk(2, dim=1)
    likelihood = GaussianLikelihood(LEADS, CHANNELS, heteroscedastic=True, scale_bound=1.5)
    log_std = parameters["log_std"].repeat_interleave(CHANNELS).reshape(-1, 1, 1) + 1.5 * torch.tanh(raw / 1.5)
    expected = -stats.norm.logpdf(target.numpy(), mean.numpy(), log_std.exp().numpy())[mask.numpy()].sum()
    assert likelihood.loss(prediction, target, mask, parameters).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(likelihood.predictive(prediction, parameters).std, log_std.exp())
    extreme = torch.cat((mean, torch.full_like(raw, -1e6)), dim=1)
    assert torch.isfinite(likelihood.loss(extreme, target, mask, parameters))


@pytest.mark.parametrize("heads", [1, 2])
def test_outputs_without_image_axes_are_those_of_single_pixels(heads):
    prediction, target, mask, parameters = (t[:, :, 0, 0] if torch.is_tensor(t) else t for t in case(heads))
    plain, image = (GaussianLikelihood(LEADS, CHANNELS, heteroscedastic=heads == 2, image_axes=axes) for axes in (0, 2))
    pixel = (..., None, None)
    expected = image.loss(prediction[pixel], target[pixel], mask[pixel], parameters)
    torch.testing.assert_close(plain.loss(prediction, target, mask, parameters), expected)
    found, reference = plain.predictive(prediction, parameters), image.predictive(prediction[pixel], parameters)
    torch.testing.assert_close(found.mean, reference.mean[..., 0, 0])
    torch.testing.assert_close(found.std, reference.std[..., 0, 0])


def test_crps_is_the_integral_of_squared_distribution_differences():
    prediction, target, _, parameters = (t[:1, :, :1, :1] if torch.is_tensor(t) else t for t in case())
    std = parameters["log_std"].exp().repeat_interleave(CHANNELS).numpy()
    expected = 0.0
    for m, s, y in zip(prediction.flatten().numpy(), std, target.flatten().numpy(), strict=True):
        below = integrate.quad(lambda v, m=m, s=s: stats.norm.cdf(v, m, s) ** 2, -20, y)[0]
        above = integrate.quad(lambda v, m=m, s=s: stats.norm.sf(v, m, s) ** 2, y, 20)[0]
        expected += below + above
    likelihood = GaussianLikelihood(LEADS, CHANNELS, score="crps", score_weight=3.0)
    assert likelihood.loss(prediction, target, None, parameters).item() == pytest.approx(3 * expected, rel=1e-6)


def test_crps_has_a_bounded_gradient_where_the_likelihood_explodes():
    target, parameters = torch.full((1, 1, 1, 1), 5.0), {"log_std": torch.tensor([-6.0])}
    slopes = {}
    for score in ("nll", "crps"):
        prediction = torch.zeros(1, 1, 1, 1, requires_grad=True)
        loss = GaussianLikelihood(1, score=score).loss(prediction, target, None, parameters)
        slopes[score] = torch.autograd.grad(loss, prediction)[0].abs().item()
    assert slopes["crps"] <= 1 + 1e-6 < slopes["nll"]


@pytest.mark.parametrize("options", [{}, {"score": "crps"}, {"heteroscedastic": True, "beta": 0.5}])
def test_masked_pixels_may_hold_anything_and_send_no_gradient(options):
    prediction, target, mask, parameters = case(heads=2 if "beta" in options else 1)
    likelihood = GaussianLikelihood(LEADS, CHANNELS, **options)
    results = []
    for filler in (torch.nan, 0.0, 1e30):
        leaf = prediction.clone().requires_grad_()
        loss = likelihood.loss(leaf, torch.where(mask, target, filler), mask, parameters)
        results.append((loss, torch.autograd.grad(loss, leaf)[0]))
    for loss, gradient in results:
        assert torch.equal(loss, results[0][0])
        assert torch.equal(gradient, results[0][1])
        assert torch.all(gradient[:, : LEADS * CHANNELS][~mask] == 0)


def test_beta_nll_scales_each_pixels_mean_gradient_by_its_variance_to_the_beta():
    prediction, target, mask, parameters = case(heads=2)
    gradients = []
    for beta in (0.0, 1.0):
        leaf = prediction.clone().requires_grad_()
        likelihood = GaussianLikelihood(LEADS, CHANNELS, heteroscedastic=True, beta=beta)
        gradients.append(torch.autograd.grad(likelihood.loss(leaf, target, mask, parameters), leaf)[0].chunk(2, 1)[0])
    variance = likelihood.predictive(prediction, parameters).std.square()
    torch.testing.assert_close(gradients[1], gradients[0] * variance)


def test_initial_noise_and_refusals():
    assert GaussianLikelihood(4, initial_std=0.3).initial()["log_std"].tolist() == pytest.approx([math.log(0.3)] * 4)
    with pytest.raises(ValueError, match="heteroscedastic"):
        GaussianLikelihood(2, beta=0.5)
    with pytest.raises(ShapeMismatchError, match="leads \\* channels"):
        GaussianLikelihood(1).loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3), None, {"log_std": torch.zeros(1)})
