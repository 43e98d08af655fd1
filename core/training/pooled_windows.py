"""Episodes as plain windows, for the pooled steps: many places at once, a few windows of each."""

import numpy as np
import torch
from torch import Tensor

from core.episodes.loader import EpisodeBatch, Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError


def pooled(batch: EpisodeBatch, windows: int, *, seed: int, step: int, groups: int = 1) -> EpisodeBatch:
    """An episode without support whose query is `windows` windows of each episode of `batch`, support and query alike.

    The windows of an episode resemble each other, so that few of many episodes make a better gradient for the same work
    than all of few. The draw is a function of (seed, step, episode id). The result is `groups` such episodes of as many
    windows where that goes without a remainder, else one.
    """
    support, query = batch.support, batch.query
    total = support.x.shape[1] + query.x.shape[1]
    rows = np.stack([_draw(total, windows, (seed, step, identity)) for identity in batch.ids])
    groups = groups if rows.size % groups == 0 else 1

    def pick(first: Tensor, then: Tensor) -> Tensor:
        """The chosen windows alone: joining the sets would copy many times as much."""
        drawn = [
            of_support[row] if row < len(of_support) else of_query[row - len(of_support)]
            for of_support, of_query, chosen in zip(first, then, rows.tolist(), strict=True)
            for row in chosen
        ]
        return torch.stack(drawn).unflatten(0, (groups, -1))

    x, y, mask = (pick(getattr(support, name), getattr(query, name)) for name in ("x", "y", "mask"))
    times = np.concatenate([support.init_time, query.init_time], axis=1)
    init_time = np.take_along_axis(times, rows, axis=1).reshape(groups, -1)
    nothing = Windows(x[:, :0], y[:, :0], mask[:, :0], init_time[:, :0], query.extra)
    return EpisodeBatch(nothing, Windows(x, y, mask, init_time, query.extra), tuple(range(groups)))


def episodes_of_phase(store: EpisodeStore, share: float, phase: str) -> np.ndarray:
    """Training episodes of the `pooled` or `meta` steps: before or after the time below which lies `share` of them.

    A network that was fitted to the very windows that it then adapts to has nothing to gain there, so that its inner
    loop learns little that helps elsewhere. Episodes across the limit belong to neither. All where `share` is 1.
    """
    ids = store.ids("train")
    if share == 1:
        return ids
    windows = [np.concatenate([*pair]) for pair in store.catalog.loc[ids, ["support", "query"]].to_numpy()]
    first = np.array([window.min() for window in windows])
    frames = store.spec.input_frames + store.spec.target_frames
    last = np.array([window.max() for window in windows]) + frames
    limit = np.quantile(first, share)
    chosen = ids[last <= limit if phase == "pooled" else first >= limit]
    if not len(chosen):
        raise FewcastError(
            f"no training episode is left for the {phase} steps",
            found=f"train.pretrain_share = {share:g} of {len(ids)} episodes",
            mend="set it to 1, or build episodes over a longer time",
        )
    return chosen


def _draw(total: int, windows: int, key: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(key).choice(total, size=min(windows, total), replace=False)
