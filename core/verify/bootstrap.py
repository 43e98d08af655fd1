"""Confidence by block bootstrap: whole blocks of tile x hours are resampled, because neighbours in space and
time are not independent. One set of weights serves every learner, which makes differences paired."""

import numpy as np
import pandas as pd


def blocks(tiles: pd.Series, init_times: pd.Series, hours: float) -> pd.Series:
    """Name of the block of each row: its tile and which span of `hours` since the epoch its init_time lies in."""
    span = init_times.to_numpy("datetime64[s]").astype("int64") // int(hours * 3600)
    return tiles.astype(str) + "@" + pd.Series(span, index=tiles.index).astype(str)


def resampling_weights(n_blocks: int, samples: int, seed: int) -> np.ndarray:
    """How often each block is drawn in each resample: (samples, n_blocks), every row sums to n_blocks."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=samples).astype(float)


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the finite resampled values; (nan, nan) where there are none."""
    finite = draws[np.isfinite(draws)]
    if finite.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
