"""Which pictures a scorecard gets: scores by lead time, calibration, and the forecasts of a few telling windows."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.report import Report
from core.verify.baselines import PERSISTENCE, last_frame
from core.verify.colours import line_styles
from core.verify.diagnostics import curve_figure, reliability_figure, texture_figure
from core.verify.ensemble import Prediction
from core.verify.events import Event
from core.verify.mixture import CORRELATION_PIXELS, Mixture
from core.verify.page import animation
from core.verify.plots import calibration, forecast_sheet, score_by_lead
from core.verify.tables import is_control

Forecasts = Callable[[int], tuple[Windows, dict[str, Prediction]]]


def draw_pictures(
    folder: Path, windows: pd.DataFrame, table: pd.DataFrame, store: EpisodeStore, events: Sequence[Event],
    forecasts: Forecasts, report: Report,
) -> dict[str, Path]:  # fmt: skip
    """Write the PNGs into `folder`, hand the figures to `report`, and return the pictures of the page by caption."""
    split = str(windows["split"].iloc[0])
    styles = line_styles(name for name in table["learner"] if not is_control(name))
    figures: dict[str, tuple[str, Figure | None]] = {
        "crps": ("CRPS by lead time", score_by_lead(table, split, styles, "crps")),
        "rmse": ("RMSE by lead time", score_by_lead(table, split, styles, "rmse")),
        "calibration": ("Calibration", calibration(windows, table, split, styles)),
        "reliability": ("Reliability of event probabilities", reliability_figure(windows, split, styles)),
        "texture": ("Texture of members", texture_figure(table, split, styles)),
        "curves": ("CRPS against support windows and inner steps", curve_figure(table, split)),
    }
    pictures: dict[str, Path] = {}
    for place, (episode, window) in telling_windows(windows).items():
        query, predictions = forecasts(episode)
        init_time = store.init_times([episode])[1][0, window].astype("datetime64[m]")
        inputs, rows = panels(query, predictions, window, store, events[0])
        name, title = f"forecast-{place.replace(' ', '-')}", f"{place}: {init_time} UTC"
        kind = store.spec.kinds[events[0].channel]
        figures[name] = (title, forecast_sheet(inputs, rows, store.lead_minutes, kind, title))
        moving = folder / f"moving-{place.replace(' ', '-')}.png"
        moving.write_bytes(animation(inputs, rows, store.lead_minutes, kind))
        pictures[f"{title} (inputs, then forecasts)"] = moving
    for name, (caption, figure) in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
            report.figure(name, figure, 0)
            pictures[caption] = folder / f"{name}.png"
    return pictures


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


def panels(
    query: Windows, predictions: dict[str, Prediction], window: int, store: EpisodeStore, event: Event | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Inputs (k, Y, X), and by name (L, Y, X): truth, the last learned row's mean, spread, chance of the event and two
    members, and persistence.

    All in physical units, of the event's channel (without one the first, and no chance), NaN where missing.
    """
    channel = event.channel if event else 0
    channels, mean = len(store.channels), float(store.normalisation.mean[channel])
    std = float(store.normalisation.std[channel])
    height, width = query.y.shape[-2:]
    inputs = torch.where(query.x[window, -1:] > 0, query.x[window, channel:-1:channels] * std + mean, torch.nan)
    top, left = (inputs.shape[-2] - height) // 2, (inputs.shape[-1] - width) // 2
    inputs = inputs[:, top : top + height, left : left + width]
    outputs = slice(channel, None, channels)
    truth = torch.where(query.mask[window, outputs], query.y[window, outputs] * std + mean, torch.nan)
    name, best = list(predictions.items())[-1]
    rows = {"truth": truth, f"{name}: mean": best.mean()[window, outputs] * std + mean}
    rows["spread (std)"] = best.variance()[window, outputs].sqrt() * std
    if event:
        above = best.exceedance(event.threshold)[window, outputs]
        rows[f"chance: {event.name}"] = above if event.above else 1 - above
    if isinstance(best, Mixture):
        members = best.members(torch.Generator().manual_seed(0), CORRELATION_PIXELS)[:2, window, outputs] * std + mean
        rows |= {f"{name}: member {i + 1}": member for i, member in enumerate(members)}
    last = last_frame(query.x, channels, store.spec.target_frames, height, width)
    rows[PERSISTENCE] = last[window, outputs] * std + mean
    shape = (len(store.lead_minutes), height, width)
    return np.asarray(inputs), {label: np.asarray(values.expand(shape)) for label, values in rows.items()}
