"""Window statistics to one table: metric x learner x lead time x split, with intervals and paired differences.

The state (`core.verify.statistics`) is a table with one row per learner, window, lead time and channel, whose key
columns are KEYS, whose FACTS say what each learner is, and whose other columns add up. `lead_time` is in minutes; in
the scorecard 0 stands for all lead times together, and "all" for all kinds of hold-out or all channels together.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from core.verify.bootstrap import blocks, interval, resampling_weights
from core.verify.optimum import OPTIMUM
from core.verify.state import all_metrics

KEYS = ["learner", "split", "holdout", "episode", "window", "tile", "init_time", "lead_time", "channel"]
FACTS = ["kind", "run", "checkpoint", "support_windows", "inner_steps", "weights", "training_steps", "training_seconds"]
WINDOW = ["split", "holdout", "episode", "window", "lead_time", "channel"]
_SCALED = ("crps", "mae", "rmse", "bias", "crps_difference")
LEVEL = 0.95
_ROUNDING = 1e-6  # of a normalised pixel in single precision: a CRPS as small is no error


@dataclass(frozen=True)
class Settings:
    """Of the bootstrap: resamples, the length of a block in hours, and the seed."""

    samples: int = 1000
    hours: float = 6.0
    seed: int = 0


def scorecard_table(
    windows: pd.DataFrame,
    settings: Settings,
    pairs: Sequence[tuple[str, str]],
    scales: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """The scorecard: columns metric, learner, reference, split, holdout, lead_time, channel, value, low, high,
    windows, blocks, units, physical, and FACTS of the learner.

    For each (learner, reference) of `pairs` it adds `crps_skill` = 1 - CRPS / CRPS of the reference and
    `crps_difference` = CRPS - CRPS of the reference, both over the windows that the two share and both resampled
    together; against the optimum also `crps_ratio`, the one CRPS over the other. `physical` is the value times the
    channel's std (`scales`) where it has the units of the channel.
    A value that is undefined (no observed pixel, a reference without error) is left out, never NaN; an interval
    needs two blocks, and with one it is missing. So is that of skill and ratio where a resample has a reference without
    error. `pit_distance` has none: resampling moves it away from 0.
    """
    rows: list[dict[str, object]] = []
    stats = [c for c in windows.columns if c not in (*KEYS, *FACTS) and not c.startswith("rel_")]
    frame = windows.assign(block=blocks(windows["tile"], windows["init_time"], settings.hours))
    for cut, group in _cuts(frame):
        learners = {str(name): part for name, part in group.groupby("learner", sort=False, observed=True)}
        for name, part in learners.items():
            sums, draws = resample(part, stats, settings)
            size = {
                "windows": len(part[["episode", "window"]].drop_duplicates()),
                "blocks": len(part["block"].unique()),
            }
            total, resampled = all_metrics(sums), all_metrics(draws)
            for metric, value in total.items():
                rows.append(_row(metric, name, "", cut, float(value), resampled[metric], size))
        for name, reference in pairs:
            if name in learners and reference in learners:
                rows += _pair(learners[name], learners[reference], name, reference, cut, stats, settings)
    table = pd.DataFrame(rows)
    table = table[np.isfinite(table["value"])].reset_index(drop=True)
    table["units"] = [units_of(metric) for metric in table["metric"]]
    scale = table["channel"].map(dict(scales or {})).astype(float)
    table["physical"] = (table["value"] * scale).where(table["units"] == "std")
    return table.join(windows.drop_duplicates("learner").set_index("learner")[FACTS], on="learner")


def units_of(metric: str) -> str:
    """`std` for what scales with the channel, 1 for shares and ratios."""
    return "nats/pixel" if metric == "nll" else "std" if metric in _SCALED else "1"


def defined_metric(table: pd.DataFrame, metric: str, reference: str = "") -> pd.DataFrame:
    """The rows of one metric, in the table's order."""
    return table[(table["metric"] == metric) & (table["reference"] == reference)]


def _cuts(frame: pd.DataFrame) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Every split x hold-out x lead time x channel, with the sums over hold-outs, leads and channels beside them."""
    for split, of_split in frame.groupby("split", sort=False, observed=True):
        for holdout, of_holdout in _with_all(of_split, "holdout", "all"):
            for channel, of_channel in _with_all(of_holdout, "channel", "all"):
                yield {"split": split, "holdout": holdout, "lead_time": 0, "channel": channel}, of_channel
                for lead, group in of_channel.groupby("lead_time"):
                    yield {"split": split, "holdout": holdout, "lead_time": lead, "channel": channel}, group


def _with_all(frame: pd.DataFrame, column: str, word: str) -> Iterator[tuple[object, pd.DataFrame]]:
    parts = list(frame.groupby(column, sort=False, observed=True))
    yield from parts
    if len(parts) > 1:
        yield word, frame


def resample(part: pd.DataFrame, stats: list[str], settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sums over all blocks, and over each resample of them. The draw depends on nothing but the blocks' number."""
    complete = part[stats].notna().all()
    present = [name for name in stats if complete[name]]
    by_block = part.groupby("block", sort=True)[present].sum().to_numpy()
    weights = resampling_weights(len(by_block), settings.samples, settings.seed)
    draws = weights @ by_block
    total = by_block.sum(0)
    return dict(zip(present, total, strict=True)), dict(zip(present, draws.T, strict=True))


def _pair(
    ours: pd.DataFrame,
    theirs: pd.DataFrame,
    name: str,
    reference: str,
    cut: dict[str, object],
    stats: list[str],
    settings: Settings,
) -> list[dict[str, object]]:
    if len(ours) != len(theirs) or not np.array_equal(ours[WINDOW].to_numpy(), theirs[WINDOW].to_numpy()):
        shared = pd.MultiIndex.from_frame(ours[WINDOW]).intersection(pd.MultiIndex.from_frame(theirs[WINDOW]))
        ours = ours[pd.MultiIndex.from_frame(ours[WINDOW]).isin(shared)]
        theirs = theirs[pd.MultiIndex.from_frame(theirs[WINDOW]).isin(shared)]
    if ours.empty:
        return []
    (sums_a, draws_a), (sums_b, draws_b) = (resample(part, ["count", "crps"], settings) for part in (ours, theirs))
    size = {"windows": len(ours[["episode", "window"]].drop_duplicates()), "blocks": len(ours["block"].unique())}
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = sums_a["crps"] / sums_a["count"], sums_b["crps"] / sums_b["count"]
        draw_a, draw_b = draws_a["crps"] / draws_a["count"], draws_b["crps"] / draws_b["count"]
        ratio, draws = (x / np.where(y > _ROUNDING, y, np.nan) for x, y in ((a, b), (draw_a, draw_b)))
        if not np.isfinite(draws).all():  # the others alone would be an interval of the blocks where it has an error
            draws = np.full_like(draws, np.nan)
        pair = {"crps_skill": (1 - ratio, 1 - draws), "crps_difference": (a - b, draw_a - draw_b)}
        if reference == OPTIMUM:
            pair["crps_ratio"] = (ratio, draws)
    return [_row(metric, name, reference, cut, float(value), draw, size) for metric, (value, draw) in pair.items()]


def _row(
    metric: str,
    learner: str,
    reference: str,
    cut: dict[str, object],
    value: float,
    draws: np.ndarray,
    size: dict[str, int],
) -> dict[str, object]:
    known = size["blocks"] > 1 and metric != "pit_distance"
    low, high = interval(draws, LEVEL) if known else (float("nan"), float("nan"))
    return {"metric": metric, "learner": learner, "reference": reference, **cut} | {
        "value": value,
        "low": low,
        "high": high,
        **size,
    }
