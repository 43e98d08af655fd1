"""Which pictures a scorecard gets: scores by lead time, calibration, and the forecasts of a few telling windows."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.report import Report
from core.verify.baselines import last_frame
from core.verify.ensemble import Prediction
from core.verify.mixture import Mixture
from core.verify.plots import calibration, forecast_sheet, score_by_lead
from core.verify.rows import PERSISTENCE

Forecasts = Callable[[int], tuple[Windows, dict[str, Prediction]]]


def draw_pictures(
    folder: Path, windows: pd.DataFrame, table: pd.DataFrame, store: EpisodeStore, forecasts: Forecasts, report: Report
) -> None:
    """Write the PNGs into `folder` and hand the figures to `report`."""
    split = str(windows["split"].iloc[0])
    figures = {
        "crps": score_by_lead(table, split, "crps"),
        "rmse": score_by_lead(table, split, "rmse"),
        "calibration": calibration(windows, table, split),
    }
    for place, (episode, window) in telling_windows(windows).items():
        query, predictions = forecasts(episode)
        title = f"{place}: {store.init_times([episode])[1][0, window].astype('datetime64[m]')} UTC"
        figures[f"forecast-{place.replace(' ', '-')}"] = sheet(query, predictions, window, store, title)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
        report.figure(name, figure, 0)


def telling_windows(windows: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """An ordinary window and one in which much changes: by the squared error of persistence among all windows."""
    own = windows[(windows["learner"] == PERSISTENCE)]
    change = own.groupby(["episode", "window"])[["squared_error", "count"]].sum()
    change = change[change["count"] > 0.5 * change["count"].max()]
    ordered = (change["squared_error"] / change["count"]).sort_values().index.to_list()
    return {
        "ordinary window": ordered[len(ordered) // 2],
        "lively window": ordered[int(0.95 * (len(ordered) - 1))],
    }


def sheet(
    query: Windows, predictions: dict[str, Prediction], window: int, store: EpisodeStore, title: str, channel: int = 0
) -> Figure:
    """Inputs, truth, the last learned row's mean, spread and two members, and persistence, in physical units."""
    channels, mean = len(store.channels), float(store.normalisation.mean[channel])
    std = float(store.normalisation.std[channel])
    height, width = query.y.shape[-2:]
    inputs = query.x[window, channel:-1:channels] * std + mean
    top, left = (inputs.shape[-2] - height) // 2, (inputs.shape[-1] - width) // 2
    inputs = inputs[:, top : top + height, left : left + width]
    outputs = slice(channel, None, channels)
    truth = torch.where(query.mask[window, outputs], query.y[window, outputs] * std + mean, torch.nan)
    name, best = list(predictions.items())[-1]
    rows = {"truth": truth, f"{name}: mean": best.mean()[window, outputs] * std + mean}
    rows["spread (std)"] = best.variance()[window, outputs].sqrt() * std
    if isinstance(best, Mixture):
        members = best.members(torch.Generator().manual_seed(0))[:2, window, outputs] * std + mean
        rows |= {f"{name}: member {i + 1}": member for i, member in enumerate(members)}
    last = last_frame(query.x, channels, store.spec.target_frames, height, width)
    rows[PERSISTENCE] = last[window, outputs] * std + mean
    return forecast_sheet(
        np.asarray(inputs),
        {label: np.asarray(values.expand(len(store.lead_minutes), height, width)) for label, values in rows.items()},
        store.lead_minutes,
        store.spec.kinds[channel],
        title,
    )
