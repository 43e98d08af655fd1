"""Pictures of what lies behind the scores: reliability, texture, few-shot curves, and cuts by hour and by cloud."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from core.verify.colours import line_styles
from core.verify.events import RELIABILITY_BINS, reliability
from core.verify.plots import Styles, legend_below, line_of, plain_axis
from core.verify.tables import headline, headline_windows, holdout_words

_CURVE_AXES = {
    "support_curve": ("support_windows", "support windows N_S"),
    "step_curve": ("inner_steps", "inner steps M"),
}


def reliability_figure(windows: pd.DataFrame, split: str, styles: Styles) -> Figure | None:
    """Observed frequency against forecast probability, one panel an event, with how often each was said below."""
    events = [column.partition("@")[2] for column in windows.columns if column.startswith("event_count@")]
    if not events:
        return None
    windows = headline_windows(windows[windows["split"] == split])
    figure = Figure(figsize=(max(7.0, 0.8 + 4.0 * len(events)), 4.6), layout="constrained")
    grid = figure.subplots(2, len(events), squeeze=False, sharex=True, height_ratios=[4, 1])
    for column, event in enumerate(events):
        top, bottom = grid[:, column]
        top.plot([0, 1], [0, 1], color="0.25", linewidth=1)
        for learner, style in styles.items():
            own = windows[windows["learner"] == learner]
            state = own[[c for c in own.columns if c.endswith(f"@{event}")]].sum(min_count=1)
            if state.isna().any():
                continue
            forecast, observed, count = reliability(state, event)
            top.plot(forecast, observed, label=learner, **line_of(style))
            centres = (np.arange(RELIABILITY_BINS) + 0.5) / RELIABILITY_BINS
            bottom.plot(centres, np.maximum(count, 1), color=style.colour, linestyle=style.dashes, linewidth=1.2)
        top.set_title(f"reliability of P({event})", fontsize=10)
        top.set_ylabel("observed frequency")
        bottom.set(xlabel="forecast probability", ylabel="pixels", yscale="log")
        for axis in (top, bottom):
            plain_axis(axis)
    figure.suptitle(_words_of(windows), fontsize=11)
    legend_below(figure, grid[0, 0])
    return figure


def _words_of(windows: pd.DataFrame) -> str:
    holdouts = windows["holdout"].unique()
    return holdout_words(holdouts[0] if len(holdouts) == 1 else "all")


def texture_figure(table: pd.DataFrame, split: str, styles: Styles) -> Figure | None:
    """Power of members over power of the observation, by wavelength."""
    rows = table[(table["split"] == split) & (table["lead_time"] == 0) & table["metric"].str.startswith("power_ratio_")]
    rows = rows[(rows["channel"] == rows["channel"].iloc[-1:].squeeze()) & rows["learner"].isin(list(styles))]
    if rows.empty:
        return None
    holdout = headline(rows["holdout"])
    rows = rows[rows["holdout"] == holdout]
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axis = figure.subplots()
    bands = list(dict.fromkeys(rows["metric"]))
    axis.axhline(1.0, color="0.25", linewidth=1)
    for learner, style in styles.items():
        value = rows[rows["learner"] == learner].set_index("metric")["value"].reindex(bands)
        if value.notna().any():
            axis.plot(range(len(bands)), value, label=learner, **line_of(style))
    labels = ["-".join(band.removeprefix("power_ratio_").split("_")) for band in bands]
    axis.set_xticks(range(len(bands)), labels)
    axis.set(xlabel="wavelength (pixels)", ylabel="power of members / power observed", yscale="log")
    axis.set_title(f"texture of members: one is as rough as real frames\n{holdout_words(holdout)}", fontsize=10)
    plain_axis(axis)
    legend_below(figure, axis)
    return figure


def curve_figure(table: pd.DataFrame, split: str) -> Figure | None:
    """CRPS over all lead times against the number of support windows, and of inner steps; dashed: the optimum."""
    rows = table[(table["split"] == split) & (table["metric"] == "crps") & (table["reference"] == "")]
    rows = rows[(rows["lead_time"] == 0) & (rows["channel"] == rows["channel"].iloc[-1])]
    kinds = [kind for kind in _CURVE_AXES if (rows["kind"] == kind).any()]
    if not kinds:
        return None
    figure = Figure(figsize=(1 + 4.4 * len(kinds), 3.8), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        column, words = _CURVE_AXES[kind]
        for holdout, style in line_styles(rows["holdout"]).items():
            own = rows[(rows["kind"] == kind) & (rows["holdout"] == holdout)].sort_values(column)
            colour = style.colour
            axis.plot(own[column], own["value"], label=holdout_words(holdout), **line_of(style))
            axis.fill_between(own[column], own["low"], own["high"], color=colour, alpha=0.12, linewidth=0)
            best = rows[(rows["kind"] == "optimum") & (rows["holdout"] == holdout)]["value"]
            for value in best:
                axis.axhline(value, color=colour, linewidth=1, linestyle="--")
        axis.set_xticks(np.unique(rows[column][rows["kind"] == kind]))
        axis.set_xlabel(words)
        axis.set_ylabel("CRPS (standardised units)")
        plain_axis(axis)
    legend_below(figure, axes[0])
    return figure
