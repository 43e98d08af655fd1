"""Do members have the texture of real frames? Power by wavelength, as window statistics that add up."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.verify.ensemble import Ensemble, Prediction
from core.verify.mixture import CORRELATION_PIXELS, Mixture

# Wavelengths in pixels: from, to. The lowest wavenumbers, larger than 32 pixels, are the window's mean state.
BANDS = ((2, 4), (4, 8), (8, 16), (16, 32))
_MEMBERS = 4


def spectral_statistics(
    prediction: Prediction, y: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"], seed: int
) -> dict[str, np.ndarray]:
    """Mean power of a few members and of the observation in each band, (N, O); zero where a pixel is missing.

    Members with their noise, not the mean: a mean is smooth by right. Each field is tapered by a Hann window after
    its own mean is taken off, so that the tile's edges make no false small scales.
    """
    members = _members(prediction, seed)
    if members is None:
        return {}
    whole = mask.all(dim=(-2, -1))
    forecast, observed = _power(members).mean(0), _power(y)
    wavelength = 1 / _wavenumber(y).clamp_min(1e-9)
    sums = {}
    for low, high in BANDS:
        if high > 2 * min(y.shape[-2:]):
            continue
        inside = (wavelength >= low) & (wavelength < high)
        for name, power in (("forecast", forecast), ("observed", observed)):
            band = power[..., inside].mean(-1).double()
            sums[f"power_{name}_{low}_{high}"] = torch.where(whole, band, 0).cpu().numpy()
    return sums


def spectral_metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """Power of members over power of the observation, by wavelength band: below one is too smooth."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            f"power_ratio_{low}_{high}": state[f"power_forecast_{low}_{high}"]
            / np.where(state[f"power_observed_{low}_{high}"] > 0, state[f"power_observed_{low}_{high}"], np.nan)
            for low, high in BANDS
            if f"power_observed_{low}_{high}" in state
        }


def _members(prediction: Prediction, seed: int) -> Tensor | None:
    if isinstance(prediction, Mixture):
        return prediction.first(_MEMBERS).members(torch.Generator().manual_seed(seed), CORRELATION_PIXELS)
    if isinstance(prediction, Ensemble) and not prediction.quantiles:
        return prediction.members[:_MEMBERS]
    return None  # quantiles are no fields


def _power(fields: Tensor) -> Tensor:
    height, width = fields.shape[-2:]
    taper = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)[None]
    flat = fields.amax((-2, -1), keepdim=True) == fields.amin((-2, -1), keepdim=True)
    anomaly = torch.where(flat, 0, fields - fields.mean((-2, -1), keepdim=True))  # no rounding for power
    return torch.fft.fft2(anomaly * taper.to(fields)).abs().square()


def _wavenumber(fields: Tensor) -> Tensor:
    height, width = fields.shape[-2:]
    return (torch.fft.fftfreq(height)[:, None].square() + torch.fft.fftfreq(width)[None].square()).sqrt()
