import numpy as np
import pytest
import torch
import xarray as xr
from scores.continuous import additive_bias, mae, rmse
from scores.probability import crps_for_ensemble

from core.verify.ensemble import Ensemble
from core.verify.mixture import Mixture
from core.verify.statistics import PIT_BINS, metrics, pit_histogram, window_statistics

N, O, H, W = 5, 3, 7, 11  # noqa: E741


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(N, O, H, W, generator=generator)
    mask = torch.rand(N, O, H, W, generator=generator) > 0.3
    mask[0, 1] = False  # a window and lead without any observed pixel
    return torch.where(mask, y, torch.tensor(1e6)), mask, generator


def _ensemble(scene, n=6):
    return Ensemble(torch.randn(n, N, O, H, W, generator=scene[2]))


def _summed(stats):
    return {name: values.sum(0) for name, values in stats.items()}


def test_metrics_equal_scores_on_the_observed_pixels(scene):
    y, mask, _ = scene
    forecast = _ensemble(scene)
    found = metrics(_summed(window_statistics(forecast, y, mask)))
    for output in range(O):
        seen = mask[:, output]
        obs = xr.DataArray(y[:, output][seen].numpy(), dims="p")
        members = xr.DataArray(forecast.members[:, :, output][:, seen].numpy(), dims=["m", "p"])
        mean = members.mean("m")
        assert found["crps"][output] == pytest.approx(
            float(crps_for_ensemble(members, obs, "m", method="fair")), rel=1e-5
        )
        assert found["rmse"][output] == pytest.approx(float(rmse(mean, obs)), rel=1e-5)
        assert found["mae"][output] == pytest.approx(float(mae(mean, obs)), rel=1e-5)
        assert found["bias"][output] == pytest.approx(float(additive_bias(mean, obs)), rel=1e-4)
        spread = np.sqrt(7 / 6 * float(members.var("m", ddof=1).mean()))
        assert found["spread_skill"][output] == pytest.approx(spread / float(rmse(mean, obs)), rel=1e-5)


def test_masked_targets_may_hold_anything(scene):
    y, mask, _ = scene
    forecast = _ensemble(scene)
    filled = window_statistics(forecast, torch.where(mask, y, torch.nan), mask)
    for name, values in window_statistics(forecast, y, mask).items():
        np.testing.assert_array_equal(filled[name], values, err_msg=name)


def test_sums_do_not_depend_on_the_chunking(scene):
    y, mask, _ = scene
    mixture = Mixture(torch.randn(4, N, O, H, W, generator=scene[2]), torch.full((O, 1, 1), 0.6))
    whole = window_statistics(mixture, y, mask)
    parts = [window_statistics(Mixture(mixture.means[:, i : i + 2], mixture.std), y[i : i + 2], mask[i : i + 2])
             for i in range(0, N, 2)]  # fmt: skip
    for name, values in whole.items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts]), values, rtol=1e-12, err_msg=name)


def test_a_forecast_from_the_truth_is_calibrated():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(5, 40, 1, 30, 20, generator=generator)
    std = torch.tensor(0.5)
    pick = torch.randint(5, (1, 40, 1, 30, 20), generator=generator)
    y = means.gather(0, pick)[0] + std * torch.randn(40, 1, 30, 20, generator=generator)
    mask = torch.ones_like(y, dtype=torch.bool)
    for forecast in (Mixture(means, std), Ensemble(torch.randn(9, *y.shape, generator=generator) * y.std())):
        state = _summed(window_statistics(forecast, y, mask))
        values = metrics(state)
        for coverage in (50, 90, 95):
            assert values[f"coverage_{coverage}"][0] == pytest.approx(coverage / 100, abs=0.02)
        assert values["spread_skill"][0] == pytest.approx(1, abs=0.03)
        assert pit_histogram(state)[0] == pytest.approx(np.full(PIT_BINS, 1 / PIT_BINS), abs=0.012)


def test_quantiles_of_the_truth_have_a_uniform_pit():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 1, 100, 300, generator=generator)
    levels = (torch.arange(8) + 0.5) / 8
    members = torch.special.ndtri(levels)[:, None, None, None, None].expand(8, *y.shape)
    forecast = Ensemble(members, quantiles=True, seed=7)  # ties are broken with other noise than y is made of
    state = _summed(window_statistics(forecast, y, torch.ones_like(y, dtype=torch.bool)))
    assert pit_histogram(state)[0] == pytest.approx(np.full(PIT_BINS, 1 / PIT_BINS), abs=0.006)


def test_a_point_forecast_has_no_spread_and_no_intervals(scene):
    y, mask, _ = scene
    values = metrics(_summed(window_statistics(_ensemble(scene, 1), y, mask)))
    assert not {"spread_skill", "coverage_90", "nll"} & set(values)
    np.testing.assert_allclose(values["crps"], values["mae"])


def test_no_observed_pixel_means_no_metric(scene):
    y, mask, _ = scene
    stats = window_statistics(_ensemble(scene), y, mask)
    assert stats["count"][0, 1] == 0
    assert np.isnan(metrics({name: values[0, 1] for name, values in stats.items()})["crps"])


def test_a_constant_field_forecast_exactly_has_no_spread_skill():
    y = torch.zeros(1, 1, 4, 5)
    values = metrics(_summed(window_statistics(Ensemble(torch.zeros(3, 1, 1, 4, 5)), y, torch.ones_like(y).bool())))
    assert values["crps"] == 0
    assert np.isnan(values["spread_skill"])


def test_a_forecast_that_is_not_finite_is_refused(scene):
    y, mask, _ = scene
    members = _ensemble(scene).members.clone()
    members[0, 3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"window 3 .* not finite"):
        window_statistics(Ensemble(members), y, mask)
