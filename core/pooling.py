"""Episodes as plain windows, for the pooled steps: many places at once, a few windows of each."""

import numpy as np
import torch
from torch import Tensor

from core.episodes.loader import EpisodeBatch, Windows


def pooled(batch: EpisodeBatch, windows: int, *, seed: int, step: int, groups: int = 1) -> EpisodeBatch:
    """An episode without support whose query is `windows` windows of each episode of `batch`, support and query alike.

    The windows of an episode resemble each other, so that few of many episodes make a better gradient for the same work
    than all of few. The draw is a function of (seed, step, episode id). The result is `groups` such episodes of as many
    windows where that goes without a remainder, else one.
    """
    support, query = batch.support, batch.query
    total = support.x.shape[1] + query.x.shape[1]
    rows = np.stack([_draw(total, windows, (seed, step, identity)) for identity in batch.ids])
    chosen = torch.from_numpy(rows)
    groups = groups if rows.size % groups == 0 else 1

    def pick(parts: tuple[Tensor, Tensor]) -> Tensor:
        stacked = torch.cat(parts, dim=1)
        return stacked[torch.arange(len(stacked))[:, None], chosen].flatten(0, 1).unflatten(0, (groups, -1))

    x, y, mask = (pick((getattr(support, name), getattr(query, name))) for name in ("x", "y", "mask"))
    times = np.concatenate([support.init_time, query.init_time], axis=1)
    init_time = np.take_along_axis(times, rows, axis=1).reshape(groups, -1)
    nothing = Windows(x[:, :0], y[:, :0], mask[:, :0], init_time[:, :0])
    return EpisodeBatch(nothing, Windows(x, y, mask, init_time), tuple(range(groups)))


def _draw(total: int, windows: int, key: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(key).choice(total, size=min(windows, total), replace=False)
