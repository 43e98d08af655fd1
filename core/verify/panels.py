"""What is shown of one window, side by side: truth, means, spread, chances and members, and those of the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.verify.baselines import PERSISTENCE, last_frame
from core.verify.colours import CHANCE, SPREAD, Measure
from core.verify.ensemble import Ensemble, Prediction
from core.verify.events import Event
from core.verify.mixture import CORRELATION_PIXELS, Mixture


@dataclass(frozen=True)
class Panel:
    """L frames (L, Y, X) under a title, in physical units, NaN where missing."""

    title: str
    values: Float[np.ndarray, "L Y X"]
    measure: Measure | None = None  # what it shows that is no image, and on a scale of its own


def panels(
    query: Windows,
    window: int,
    name: str,
    forecast: Prediction,
    store: EpisodeStore,
    event: Event | None = None,
    beside: Mapping[str, Ensemble] | None = None,
) -> tuple[Float[np.ndarray, "k Y X"], list[Panel]]:
    """Inputs of a window, and its panels: truth and the means of all forecasts first, then what is unsure.

    `forecast` is of all the query's windows, those of `beside` (L*C, Y, X) of this one alone; the first member of an
    ensemble is shown too, and two of `forecast`. All of the event's channel; without one of the first, and no chance.
    """
    channel = event.channel if event else 0
    channels, mean = len(store.channels), float(store.normalisation.mean[channel])
    std = float(store.normalisation.std[channel])
    height, width = query.y.shape[-2:]
    outputs = slice(channel, None, channels)
    shape = (len(store.lead_minutes), height, width)

    def image(title: str, values: Tensor) -> Panel:
        return Panel(title, np.asarray((values * std + mean).expand(shape)))

    inputs = torch.where(query.x[window, -1:] > 0, query.x[window, channel:-1:channels] * std + mean, torch.nan)
    top, left = (inputs.shape[-2] - height) // 2, (inputs.shape[-1] - width) // 2
    last = last_frame(query.x, channels, store.spec.target_frames, height, width)
    found = [
        image("truth", torch.where(query.mask[window, outputs], query.y[window, outputs], torch.nan)),
        image(f"{name}: mean", forecast.mean()[window, outputs]),
    ]
    members = []
    for other, ensemble in (beside or {}).items():
        found.append(image(other if ensemble.is_point else f"{other}: mean", ensemble.mean()[outputs]))
        if not ensemble.is_point:
            members.append(image(f"{other}: member 1", ensemble.members[0, outputs]))
    found.append(image(PERSISTENCE, last[window, outputs]))
    spread = (forecast.variance()[window, outputs].sqrt() * std).expand(shape)
    found.append(Panel("spread (std)", np.asarray(spread), SPREAD))
    if event:
        above = forecast.exceedance(event.threshold)[window, outputs]
        chance = above if event.above else 1 - above
        found.append(Panel(f"chance: {event.name}", np.asarray(chance.expand(shape)), CHANCE))
    if isinstance(forecast, Mixture):
        drawn = forecast.members(torch.Generator().manual_seed(0), CORRELATION_PIXELS)[:2, window, outputs]
        found += [image(f"{name}: member {i + 1}", member) for i, member in enumerate(drawn)]
    return np.asarray(inputs[:, top : top + height, left : left + width]), found + members
