"""Statistic per window -> additive state -> metric.

A statistic is a sum over the observed pixels of one window, lead time and channel. Sums of windows are again
such sums, so metrics of any group of windows, under any chunking, come from adding rows and then calling
`metrics`; nothing is averaged before the end. The state is a table: one row per window, lead time and channel.

Legend: N windows, O outputs = (lead time, channel), H x W pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.verify.ensemble import Ensemble, Prediction
from core.verify.mixture import Mixture

COVERAGES = (0.50, 0.90, 0.95)
PIT_BINS = 20
PIT_COLUMNS = tuple(f"pit_{i:02d}" for i in range(PIT_BINS))


def window_statistics(
    prediction: Prediction, y: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"]
) -> dict[str, np.ndarray]:
    """Sums over the observed pixels of each window and output, as float64 arrays (N, O).

    The point forecast of `error`, `absolute_error` and `squared_error` is the predictive mean; the sign of
    `error` is forecast minus observation. `nll` exists for densities alone, spread,
    coverage and PIT not for a point forecast. Raises ValueError where the
    forecast is not finite, because a NaN in a sum would hide which window it came from.
    """
    error = prediction.mean() - y
    fields = {
        "count": torch.ones_like(y),
        "error": error,
        "absolute_error": error.abs(),
        "squared_error": error.square(),
        "observed": y,
        "crps": prediction.crps(y),
    }
    if isinstance(prediction, Mixture):
        fields["nll"] = prediction.nll(y)
    if not (isinstance(prediction, Ensemble) and prediction.is_point):
        pit = prediction.cdf(y)
        fields["variance"] = prediction.variance().expand_as(y)
        for coverage in COVERAGES:
            fields[f"inside_{coverage:.0%}"] = ((pit - 0.5).abs() <= coverage / 2).to(y.dtype)
    sums = {name: _sum(values, mask) for name, values in fields.items()}
    if "variance" in fields:
        sums |= dict(zip(PIT_COLUMNS, binned_sums(pit, mask, PIT_BINS), strict=True))
    for name, values in sums.items():
        if not np.isfinite(values).all():
            window = int(np.argwhere(~np.isfinite(values))[0][0])
            raise ValueError(f"the forecast of window {window} of the batch has a {name} that is not finite")
    return sums


def metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of summed statistics, elementwise over whatever shape the sums have, scalars too.

    Standardised units, except: spread_skill = sqrt(mean predictive variance) / RMSE and coverages (shares),
    nll in nats per pixel, and pit_distance, the share of observations that would have to lie elsewhere in the forecast
    distribution for its PIT to be uniform (0 where calibrated; sampling alone gives a little). A group with no
    observed pixel has no metrics, and spread-skill of a perfect point forecast is undefined: both are NaN here, and the
    scorecard leaves such rows out and says so.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        count = np.where(state["count"] > 0, state["count"], np.nan)
        rmse = np.sqrt(state["squared_error"] / count)
        values = {
            "crps": state["crps"] / count,
            "mae": state["absolute_error"] / count,
            "rmse": rmse,
            "bias": state["error"] / count,
        }
        if "variance" in state:
            values["spread_skill"] = np.sqrt(state["variance"] / count) / np.where(rmse > 0, rmse, np.nan)
            for coverage in COVERAGES:
                values[f"coverage_{coverage:.0%}".replace("%", "")] = state[f"inside_{coverage:.0%}"] / count
            values["pit_distance"] = 0.5 * np.abs(pit_histogram(state) - 1 / PIT_BINS).sum(-1)
        if "nll" in state:
            values["nll"] = state["nll"] / count
    return values


def pit_histogram(state: Mapping[str, Any] | pd.Series) -> np.ndarray:
    """Share of observations in each of the equal PIT bins, last axis; 1 / bins everywhere when calibrated."""
    counts = np.stack([np.asarray(state[name], float) for name in PIT_COLUMNS], axis=-1)
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def binned_sums(
    share: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"], bins: int, values: Tensor | None = None
) -> list[np.ndarray]:
    """For each of the equal bins of [0, 1], over the observed pixels that fall in it: their number, or a sum of values.

    One array (N, O) a bin, by one pass over the pixels.
    """
    n, outputs = share.shape[:2]
    place = torch.arange(n * outputs, device=share.device).reshape(n, outputs, 1, 1) * bins
    place = place + (share * bins).long().clamp(0, bins - 1)
    weight = (mask if values is None else torch.where(mask, values, 0)).to(torch.float64)
    summed = torch.bincount(place.flatten(), weight.flatten(), minlength=n * outputs * bins)
    return list(summed.reshape(n, outputs, bins).movedim(-1, 0).cpu().numpy())


def _sum(values: Tensor, mask: Tensor) -> np.ndarray:
    return torch.where(mask, values, 0).sum((-2, -1), dtype=torch.float64).cpu().numpy()
