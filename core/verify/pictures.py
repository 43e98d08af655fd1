"""Which pictures a scorecard gets: scores by lead time, calibration, and the forecasts of a few telling windows."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.verify.animation import animation
from core.verify.baselines import PERSISTENCE
from core.verify.colours import line_styles
from core.verify.diagnostics import curve_figure, reliability_figure, texture_figure
from core.verify.ensemble import Ensemble, Prediction
from core.verify.events import Event
from core.verify.kinds import CONTROLS
from core.verify.panels import panels
from core.verify.plots import calibration, forecast_sheet, score_by_lead

Forecast = Callable[[int], tuple[Windows, str, Prediction]]  # of an episode: its query, whose forecast, and which
Beside = Callable[[int, int], dict[str, Ensemble]]  # of an episode's window: what the domain's baselines forecast


def draw_pictures(
    folder: Path, windows: pd.DataFrame, table: pd.DataFrame, store: EpisodeStore, events: Sequence[Event],
    forecast: Forecast, beside: Beside,
) -> dict[str, Path]:  # fmt: skip
    """Write the PNGs into `folder`, and return the pictures of the page by caption."""
    split = str(windows["split"].iloc[0])
    styles = line_styles(table["learner"][~table["kind"].isin(CONTROLS)])
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
        init_time = store.init_times([episode])[1][0, window].astype("datetime64[m]")
        query, learner, adapted = forecast(episode)
        inputs, shown = panels(query, window, learner, adapted, store, events[0], beside(episode, window))
        name, title = f"forecast-{place.replace(' ', '-')}", f"{place}: {init_time} UTC"
        kind = store.spec.kinds[events[0].channel]
        figures[name] = (title, forecast_sheet(inputs, shown, store.lead_minutes, kind, title))
        moving = folder / f"moving-{place.replace(' ', '-')}.png"
        moving.write_bytes(animation(inputs, shown, store.lead_minutes, kind))
        pictures[f"{title} (inputs, then forecasts)"] = moving
    for name, (caption, figure) in figures.items():
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=120)
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
