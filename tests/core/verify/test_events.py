import numpy as np
import pytest
import torch
import xarray as xr
from scores.categorical import BinaryContingencyManager
from scores.probability import brier_score_for_ensemble
from scores.spatial import fss_2d

from core.config import Threshold
from core.errors import FewcastError
from core.verify.ensemble import Ensemble
from core.verify.events import FSS_SIDES, Event, _box, event_metrics, event_statistics, events_of, reliability
from core.verify.mixture import Mixture
from core.verify.spectra import spectral_metrics, spectral_statistics


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(4)
    y = torch.randn(3, 4, 20, 26, generator=generator)
    members = 0.5 * y + torch.randn(7, 3, 4, 20, 26, generator=generator)
    mask = torch.rand(3, 4, 20, 26, generator=generator) > 0.2
    return members, y, mask


def _metrics(stats, window, output):
    return event_metrics({name: values[window, output] for name, values in stats.items()})


@pytest.mark.parametrize("above", [True, False])
def test_brier_and_csi_equal_scores(scene, above):
    members, y, mask = scene
    stats = event_statistics(Ensemble(members), y, mask, [Event("e", 1, 0.3, above)], channels=2)
    seen = mask[2, 3]
    obs = xr.DataArray(y[2, 3][seen].double().numpy(), dims="p")
    ensemble = xr.DataArray(members[:, 2, 3][:, seen].double().numpy(), dims=["m", "p"])
    sign = 1 if above else -1
    brier = brier_score_for_ensemble(sign * ensemble, sign * obs, "m", sign * 0.3, fair_correction=False)
    found = _metrics(stats, 2, 3)
    assert found["brier@e"] == pytest.approx(float(brier.squeeze()), rel=1e-5)
    event = (obs > 0.3) if above else (obs <= 0.3)
    likely = ((ensemble > 0.3).mean("m") > 0.5) if above else ((ensemble > 0.3).mean("m") < 0.5)
    csi = BinaryContingencyManager(likely.astype(float), event.astype(float)).transform().critical_success_index()
    assert found["csi@e"] == pytest.approx(float(csi), rel=1e-5)
    assert found["frequency@e"] == pytest.approx(float(event.mean()))


def test_outputs_of_other_channels_hold_zeros(scene):
    members, y, mask = scene
    stats = event_statistics(Ensemble(members), y, mask, [Event("e", 1, 0.3, True)], channels=2)
    for name, values in stats.items():
        assert (values[:, ::2] == 0).all(), name


def test_fss_equals_scores_on_whole_fields_away_from_the_edge(scene):
    members, y, _ = scene
    forecast = Ensemble(members[:1])
    stats = event_statistics(forecast, y, torch.ones_like(y).bool(), [Event("e", 0, 0.3, True)], channels=1)
    side = FSS_SIDES[0]
    inside = np.s_[side // 2 : -(side // 2), side // 2 : -(side // 2)]  # scores has no windows beyond the edge
    fields = [np.asarray(f > 0.3, float) for f in (members[0, 0, 0], y[0, 0])]
    expected = fss_2d(
        *(xr.DataArray(f, dims=["y", "x"]) for f in (members[0, 0, 0].numpy(), y[0, 0].numpy())),
        event_threshold=0.3, window_size=(side, side), spatial_dims=("y", "x"),
    )  # fmt: skip
    shares = [np.lib.stride_tricks.sliding_window_view(f, (side, side)).mean((-1, -2)) for f in fields]
    by_hand = 1 - ((shares[0] - shares[1]) ** 2).sum() / (shares[0] ** 2 + shares[1] ** 2).sum()
    assert float(expected) == pytest.approx(by_hand)
    ours = [_box(torch.tensor(f)[None, None], side)[0, 0].numpy() for f in fields]
    for mine, theirs in zip(ours, shares, strict=True):
        np.testing.assert_allclose(mine[inside], theirs, atol=1e-6)
    assert _metrics(stats, 0, 0)["fss_3@e"] == pytest.approx(by_hand, abs=0.04)


def test_reliability_of_a_calibrated_forecast_lies_on_the_diagonal():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(1, 40, 1, 40, 50, generator=generator)
    y = means[0] + 0.8 * torch.randn(40, 1, 40, 50, generator=generator)
    stats = event_statistics(
        Mixture(means, torch.tensor(0.8)), y, torch.ones_like(y).bool(), [Event("e", 0, 0.5, True)], 1
    )
    forecast, observed, count = reliability({name: values.sum() for name, values in stats.items()}, "e")
    assert count.sum() == y.numel()
    np.testing.assert_allclose(forecast, observed, atol=0.03)


def test_a_threshold_outside_the_data_has_a_brier_score_and_nothing_undefined(scene):
    members, y, mask = scene
    stats = event_statistics(Ensemble(members), y, mask, [Event("never", 0, 99.0, True)], channels=1)
    found = _metrics(stats, 0, 0)
    assert found["brier@never"] == found["frequency@never"] == 0
    assert np.isnan(found["csi@never"])
    assert np.isnan(found["fss_3@never"])


def test_events_are_normalised_and_default_to_the_cloudy_side():
    kinds = ("brightness_temperature", "reflectance")
    cold, bright = events_of([], ("ir", "vis"), kinds, np.array([270.0, 30.0]), np.array([20.0, 15.0]))
    assert (cold.threshold, cold.above, bright.threshold, bright.above) == (-1.0, False, 1.0, True)
    (event,) = events_of([Threshold(name="tops", channel="ir", value=230.0)], ("ir", "vis"), kinds,
                         np.array([270.0, 30.0]), np.array([20.0, 15.0]))  # fmt: skip
    assert (event.threshold, event.channel) == (-2.0, 0)
    with pytest.raises(FewcastError, match="channel that the episodes have not"):
        events_of([Threshold(name="tops", channel="wv", value=1.0)], ("ir",), kinds[:1], np.zeros(1), np.ones(1))


def test_members_of_the_observations_own_texture_have_a_power_ratio_of_one():
    from core.verify.mixture import noise_field

    generator = torch.Generator().manual_seed(0)
    rough, smooth = (noise_field((4, 30, 2, 64, 48), generator, length) for length in (1.0, 3.0))
    y = noise_field((30, 2, 64, 48), generator, 1.0)
    mask = torch.ones_like(y).bool()
    mask[0, 0, 3, 4] = False
    for members, low, high in ((rough, 0.8, 1.25), (smooth, 0.0, 0.3)):
        stats = spectral_statistics(Ensemble(members), y, mask, seed=0)
        assert stats["power_observed_4_8"][0, 0] == 0  # a missing pixel takes its window out
        ratio = spectral_metrics({name: values.sum() for name, values in stats.items()})["power_ratio_4_8"]
        assert low < ratio < high


@pytest.mark.parametrize("side", [1, 3, 9, 17])
def test_boxes_are_means_with_zeros_beyond_the_edge(side):
    field = torch.randn(2, 3, 14, 21, dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(field, side, 1, side // 2)
    torch.testing.assert_close(_box(field, side), expected, atol=1e-6, rtol=1e-6)
