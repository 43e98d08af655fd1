"""Probabilities of events: Brier score, reliability, CSI and FSS, as window statistics that add up.

An event is a channel above (or below) a threshold. Columns are `<statistic>@<event>`, and outputs of other channels
hold zeros in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.config import Threshold
from core.errors import FewcastError
from core.verify.ensemble import Prediction
from core.verify.statistics import binned_sums

RELIABILITY_BINS = 10
FSS_SIDES = (3, 9, 17)  # pixels


@dataclass(frozen=True)
class Event:
    """A channel beyond a threshold, in normalised units."""

    name: str
    channel: int
    threshold: float
    above: bool


def cloud_is_high(kind: str) -> bool:
    """Whether cloud has a kind's high values: it is cold in brightness temperature, bright elsewhere."""
    return kind != "brightness_temperature"


def events_of(
    thresholds: Sequence[Threshold], channels: Sequence[str], kinds: Sequence[str], mean: np.ndarray, std: np.ndarray
) -> tuple[Event, ...]:
    """The configured events, or one for each channel: one std to the cloudy side of the training mean."""
    if not thresholds:
        high = [cloud_is_high(kind) for kind in kinds]
        return tuple(Event(f"cloudy_{name}", c, 1.0 if high[c] else -1.0, high[c]) for c, name in enumerate(channels))
    found = []
    for threshold in thresholds:
        name = threshold.channel or channels[0]
        if name not in channels:
            raise FewcastError(
                f"the event {threshold.name} is of a channel that the episodes have not",
                found=name,
                mend=f"choose one of {', '.join(channels)}",
            )
        c = list(channels).index(name)
        found.append(Event(threshold.name, c, (threshold.value - float(mean[c])) / float(std[c]), threshold.above))
    return tuple(found)


def event_statistics(
    prediction: Prediction,
    y: Float[Tensor, "N O H W"],
    mask: Bool[Tensor, "N O H W"],
    events: Sequence[Event],
    channels: int,
) -> dict[str, np.ndarray]:
    """Sums (N, O) for every event over its channel's outputs.

    FSS compares the mean probability with the observed share in squares of each side, over observed pixels; for a
    point forecast it is the usual score, for a distribution its expectation over pixels.
    """
    sums: dict[str, np.ndarray] = {}
    for event in events:
        above = prediction.exceedance(event.threshold)
        p = above if event.above else 1 - above
        seen = mask & (torch.arange(y.shape[1], device=y.device) % channels == event.channel)[:, None, None]
        o = ((y > event.threshold) if event.above else (y <= event.threshold)).to(y.dtype)
        yes = (p > 0.5).to(y.dtype)
        fields = {
            "event_count": torch.ones_like(y),
            "event_observed": o,
            "brier": (p - o).square(),
            "hits": yes * o,
            "false_alarms": yes * (1 - o),
            "misses": (1 - yes) * o,
        }
        for what, values in (("count", None), ("forecast", p), ("observed", o)):
            for b, binned in enumerate(binned_sums(p, seen, RELIABILITY_BINS, values)):
                sums[f"rel_{what}_{b}@{event.name}"] = binned
        for side in FSS_SIDES:
            near = _box(seen.to(y.dtype), side).clamp_min(1e-9)  # shares are of the observed pixels
            forecast, observed = _box(p * seen, side) / near, _box(o * seen, side) / near
            fields[f"fss_error_{side}"] = (forecast - observed).square()
            fields[f"fss_worst_{side}"] = forecast.square() + observed.square()
        for name, values in fields.items():
            total = torch.where(seen, values, 0).sum((-2, -1), dtype=torch.float64)
            sums[f"{name}@{event.name}"] = total.cpu().numpy()
    return sums


def event_metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """Brier score, CSI at probability one half, FSS by side; NaN where undefined (an event that never was, nor was
    forecast, has no CSI and no FSS)."""
    names = [column.partition("@")[2] for column in state if column.startswith("event_count@")]
    values: dict[str, Any] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in names:
            count = np.where(state[f"event_count@{name}"] > 0, state[f"event_count@{name}"], np.nan)
            asked = state[f"hits@{name}"] + state[f"misses@{name}"] + state[f"false_alarms@{name}"]
            values[f"brier@{name}"] = state[f"brier@{name}"] / count
            values[f"frequency@{name}"] = state[f"event_observed@{name}"] / count
            values[f"csi@{name}"] = state[f"hits@{name}"] / np.where(asked > 0, asked, np.nan)
            for side in FSS_SIDES:
                worst = state[f"fss_worst_{side}@{name}"]
                values[f"fss_{side}@{name}"] = 1 - state[f"fss_error_{side}@{name}"] / np.where(
                    worst > 0, worst, np.nan
                )
    return values


def reliability(state: Mapping[str, Any] | pd.Series, event: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean forecast probability, observed frequency, count) of each bin; NaN where a bin is empty."""
    count, forecast, observed = (
        np.array([float(state[f"rel_{what}_{b}@{event}"]) for b in range(RELIABILITY_BINS)])
        for what in ("count", "forecast", "observed")
    )
    full = np.where(count > 0, count, np.nan)
    return forecast / full, observed / full, count


def _box(values: Tensor, side: int) -> Tensor:
    """Mean over the square around each pixel, zeros beyond the edge, by a band matrix for rows and one for columns.

    For tiles this is several times as fast as pooling, whatever the side.
    """
    height, width = (_band(extent, side).to(values) for extent in values.shape[-2:])
    return height @ values @ width


@lru_cache(maxsize=32)
def _band(extent: int, side: int) -> Tensor:
    place = torch.arange(extent)
    return ((place[:, None] - place[None]).abs() <= side // 2).to(torch.float32) / side
