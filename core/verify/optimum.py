"""The row that no learner can better: the simulator's own linear process, forecast with its true parameters."""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch

from core.config import SimulatorConfig
from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.satellite.linear import LinearContext, Optimum, optimum
from core.satellite.linear_sky import FRAME_MINUTES, KELVIN, KELVIN_PER_STD, LinearSky
from core.verify.mixture import Mixture

OPTIMUM = "optimum"


def optimal_forecast(simulator: SimulatorConfig, store: EpisodeStore, entry: pd.Series, query: Windows) -> Mixture:
    """The conditional Gaussian of an episode's targets (N, L, H, W) given the inputs of the same windows.

    `entry` is the episode's row of the catalog. Raises `FewcastError` where a tile or a window holds more than one
    context, or inputs are missing: the closed form is of one process seen whole.
    """
    spec, side = store.spec, simulator.region_pixels
    step = np.timedelta64(spec.lead_minutes[0], "m")
    first, last = query.init_time - step * (spec.input_frames - 1), query.init_time + step * spec.target_frames
    top, left = (int(entry[name]) - spec.margin_pixels for name in ("y0", "x0"))
    outer = spec.tile_pixels + 2 * spec.margin_pixels
    days = np.unique(np.concatenate([first, last]).astype("datetime64[D]"))
    if top % side + outer > side or left % side + outer > side or len(days) > 1:
        raise FewcastError(
            "the optimum is known where a tile and its windows lie in one square and one day of the linear process",
            found=f"{outer} pixels from ({top}, {left}) on {' and '.join(map(str, days))}, squares of {side} pixels",
            mend="set episodes.tile_pixels (with margins) to ingest.simulator.region_pixels, jitter_pixels=0 and spans "
            "of 24 hours from midnight, or evaluate with simulator.enabled=false",
        )
    if not bool((query.x[:, -1] > 0).all()):
        raise FewcastError("the optimum is known for whole inputs alone", found="missing input pixels",
                           mend="evaluate on frames without holes, or with simulator.enabled=false")  # fmt: skip
    sky = LinearSky(simulator.seed, simulator.pixels, side)
    context = sky.context(days[0], top // side, left // side).every(spec.lead_minutes[0] / FRAME_MINUTES)
    best = _optimum(context, side, spec.tile_pixels, spec.input_frames, spec.target_frames, spec.margin_pixels)
    mean, std = (float(values[0]) for values in (store.normalisation.mean, store.normalisation.std))
    frames = query.x[:, : spec.input_frames].double().numpy() * std + mean
    field = best.mean((frames - KELVIN) / KELVIN_PER_STD)
    means = (KELVIN + KELVIN_PER_STD * field - mean) / std
    return Mixture(torch.from_numpy(means)[None].float(), torch.from_numpy(best.std * KELVIN_PER_STD / std).float())


@lru_cache(maxsize=64)
def _optimum(context: LinearContext, side: int, tile: int, inputs: int, targets: int, margin: int) -> Optimum:
    return optimum(context, (2 * side, 2 * side), tile, inputs, targets, margin)
