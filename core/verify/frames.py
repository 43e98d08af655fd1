"""Window statistics with their keys, as rows of the state table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from core.episodes.store import EpisodeStore


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
    return pd.DataFrame(keys | {statistic: values.ravel() for statistic, values in stats.items()})
