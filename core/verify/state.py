"""The state table: all statistics of windows with their keys, and all metrics of their sums."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from core.episodes.store import EpisodeStore
from core.verify.ensemble import Prediction
from core.verify.events import Event, event_metrics, event_statistics
from core.verify.spectra import spectral_metrics, spectral_statistics
from core.verify.statistics import metrics, window_statistics


def all_statistics(
    prediction: Prediction, y: torch.Tensor, mask: torch.Tensor, events: Sequence[Event], channels: int, seed: int
) -> dict[str, np.ndarray]:
    """Every statistic (N, L*C) of a forecast; see statistics.py, events.py and spectra.py."""
    return (
        window_statistics(prediction, y, mask)
        | event_statistics(prediction, y, mask, events, channels)
        | spectral_statistics(prediction, y, mask, seed)
    )


def all_metrics(state: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric that the sums of statistics allow."""
    return metrics(state) | event_metrics(state) | spectral_metrics(state)


def as_frame(
    stats: dict[str, np.ndarray],
    name: str,
    entry: pd.Series,
    init_times: np.ndarray,
    store: EpisodeStore,
    windows: Sequence[int] | None = None,
) -> pd.DataFrame:
    """One row per window, lead time and channel of an episode.

    `stats` are (N, L*C), `entry` is the episode's row of the catalog, `init_times` (N,), and `windows` the windows'
    places among the query windows where they are not all of them.
    """
    n, outputs = stats["count"].shape
    channels = len(store.channels)
    keys = {
        "learner": name,
        "split": entry["split"],
        "holdout": entry["holdout"],
        "episode": int(entry["id"]),
        "window": np.repeat(np.arange(n) if windows is None else np.asarray(windows), outputs),
        "tile": f"r{entry['row']}c{entry['col']}",
        "init_time": np.repeat(init_times, outputs),
        "lead_time": np.tile(np.repeat(store.lead_minutes, channels), n),
        "channel": np.tile(store.channels, n * outputs // channels),
    }
    # Copies, or a few numbers would keep the large arrays alive that they were summed in.
    return pd.DataFrame(keys | {statistic: values.flatten() for statistic, values in stats.items()})
