"""Our statistics beside those of pysteps, where it computes the same thing: another code, the same numbers."""

import contextlib
import io

import numpy as np
import pytest
import torch

from core.verify.ensemble import Ensemble
from core.verify.events import FSS_SIDES, RELIABILITY_BINS, Event, event_metrics, event_statistics, reliability
from core.verify.mixture import noise_field
from core.verify.spectra import spectral_statistics
from core.verify.statistics import PIT_BINS, pit_histogram, window_statistics

with contextlib.redirect_stdout(io.StringIO()):  # it greets
    from pysteps.utils.spectral import rapsd
    from pysteps.verification.detcatscores import det_cat_fct
    from pysteps.verification.ensscores import rankhist_accum, rankhist_init
    from pysteps.verification.probscores import CRPS, reldiag_accum, reldiag_init
    from pysteps.verification.spatialscores import fss

EVENT = Event("e", 0, 0.4, True)


@pytest.fixture
def scene():
    """Members (7, 1, 1, 40, 52) of some skill, the observation (1, 1, 40, 52), nothing missing."""
    generator = torch.Generator().manual_seed(1)
    y = noise_field((1, 1, 40, 52), generator, 2.0)
    members = 0.7 * y + 0.7 * noise_field((7, 1, 1, 40, 52), generator, 2.0)
    return members, y, torch.ones_like(y).bool()


def _events(members, y, mask):
    return {name: values[0, 0] for name, values in event_statistics(Ensemble(members), y, mask, [EVENT], 1).items()}


def test_crps_of_an_ensemble_that_is_the_distribution_is_pysteps(scene):
    members, y, _ = scene
    expected = CRPS(members[:, 0, 0].double().numpy(), y[0, 0].double().numpy())
    assert float(Ensemble(members.double(), quantiles=True).crps(y.double()).mean()) == pytest.approx(expected)


def test_with_one_member_fewer_than_bins_the_pit_histogram_is_the_rank_histogram():
    generator = torch.Generator().manual_seed(0)
    members, y = torch.randn(PIT_BINS - 1, 1, 1, 30, 41, generator=generator), torch.randn(1, 1, 30, 41) * 1.3
    counts = rankhist_init(PIT_BINS - 1)
    rankhist_accum(counts, members[:, 0, 0].numpy(), y[0, 0].numpy())
    found = pit_histogram(window_statistics(Ensemble(members), y, torch.ones_like(y).bool()))[0, 0]
    np.testing.assert_allclose(found * y.numel(), counts["n"], atol=1e-6)


def test_csi_is_pysteps(scene):
    members, y, mask = scene
    expected = det_cat_fct(members[0, 0, 0].numpy(), y[0, 0].numpy(), thr=EVENT.threshold, scores="CSI")["CSI"]
    assert event_metrics(_events(members[:1], y, mask))["csi@e"] == pytest.approx(expected)


@pytest.mark.parametrize("side", FSS_SIDES)
def test_fss_is_pysteps_where_no_event_touches_the_edge(scene, side):
    """At the edge pysteps counts what lies beyond as no event, and we leave it out."""
    members, y, mask = scene
    inside = torch.zeros(40, 52)
    inside[side:-side, side:-side] = 1
    forecast, observed = (torch.where(inside > 0, field, torch.tensor(-9.0)) for field in (members[:1], y))
    expected = fss(forecast[0, 0, 0].numpy(), observed[0, 0].numpy(), EVENT.threshold, side)
    assert event_metrics(_events(forecast, observed, mask))[f"fss_{side}@e"] == pytest.approx(expected, rel=1e-5)


def test_the_reliability_diagram_is_pysteps(scene):
    members, y, mask = scene
    expected = reldiag_init(EVENT.threshold, n_bins=RELIABILITY_BINS, min_count=1)
    share = (members > EVENT.threshold).double().mean(0)
    reldiag_accum(expected, share[0, 0].numpy(), y[0, 0].numpy())
    forecast, observed, count = reliability(_events(members, y, mask), "e")
    np.testing.assert_array_equal(count, expected["num_idx"])
    full = count > 0
    np.testing.assert_allclose(forecast[full], expected["X_sum"][full] / count[full], rtol=1e-5)
    np.testing.assert_allclose(observed[full], expected["Y_sum"][full] / count[full], rtol=1e-5)


def test_band_power_is_that_of_pysteps_radial_spectrum():
    """Its rings, weighted by how many wavenumbers each holds, fill our band but for its rounded edges."""
    y = noise_field((1, 1, 64, 64), torch.Generator().manual_seed(2), 1.0)
    stats = spectral_statistics(Ensemble(0.5 * y[None]), y, torch.ones_like(y).bool(), seed=0)
    taper = np.hanning(64)[:, None] * np.hanning(64)[None]
    field = y[0, 0].double().numpy()
    ring = rapsd((field - field.mean()) * taper, fft_method=np.fft) * 64 * 64
    radius = np.arange(9, 16)  # wavelengths of 4 to 8 pixels
    expected = (ring[radius] * radius).sum() / radius.sum()
    assert stats["power_observed_4_8"][0, 0] == pytest.approx(expected, rel=0.05)
    assert stats["power_forecast_4_8"][0, 0] == pytest.approx(0.25 * stats["power_observed_4_8"][0, 0], rel=1e-5)
