"""The pictures of a scorecard. Each function takes tables or arrays and gives a matplotlib Figure."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine

from core.verify.colours import LEARNERS, MARKERS, image_style
from core.verify.statistics import PIT_BINS, pit_histogram
from core.verify.tables import holdout_words


def score_by_lead(table: pd.DataFrame, split: str, metric: str = "crps") -> Figure:
    """A metric against lead time with its 95 % intervals, one panel a kind of hold-out, one line a learner."""
    rows = table[(table["split"] == split) & (table["metric"] == metric) & (table["reference"] == "")]
    rows = rows[(rows["channel"] == _channel(rows)) & (rows["lead_time"] > 0) & (rows["holdout"] != "all")]
    holdouts = list(dict.fromkeys(rows["holdout"]))
    figure = Figure(figsize=(1.2 + 3.6 * len(holdouts), 3.8), layout="constrained")
    axes = figure.subplots(1, len(holdouts), sharey=True, squeeze=False)[0]
    learners = list(dict.fromkeys(rows["learner"]))
    leads = np.sort(rows["lead_time"].unique())
    step = float(np.diff(leads).min()) if len(leads) > 1 else 1.0
    for axis, holdout in zip(axes, holdouts, strict=True):
        for i, learner in enumerate(learners):
            own = rows[(rows["learner"] == learner) & (rows["holdout"] == holdout)].sort_values("lead_time")
            _line(axis, own, learner, i, shift=(i - (len(learners) - 1) / 2) * 0.05 * step)
        axis.set_title(holdout_words(holdout), fontsize=10)
        axis.set_xlabel("lead time (minutes)")
        axis.set_xticks(leads)
        _plain(axis)
    axes[0].set_ylabel(f"{metric.upper()} (standardised units)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def calibration(windows: pd.DataFrame, table: pd.DataFrame, split: str) -> Figure:
    """PIT histograms, coverage against its nominal value, and spread over skill by lead time."""
    rows = table[(table["split"] == split) & (table["reference"] == "")]
    rows = rows[(rows["channel"] == _channel(rows)) & (rows["holdout"] == _widest(rows))]
    density = [name for name in dict.fromkeys(rows["learner"]) if name != "persistence"]  # a point has no spread
    figure = Figure(figsize=(12, 3.9), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    edges = np.linspace(0, 1, PIT_BINS + 1)
    for i, learner in enumerate(density):
        state = windows[(windows["learner"] == learner) & (windows["split"] == split)].filter(like="pit_").sum()
        colour = LEARNERS[(i + 1) % len(LEARNERS)]
        left.stairs(PIT_BINS * pit_histogram(state), edges, color=colour, linewidth=1.8, label=learner)
        own = rows[(rows["learner"] == learner)]
        covered = own[(own["lead_time"] == 0) & own["metric"].str.startswith("coverage_")]
        nominal = covered["metric"].str.removeprefix("coverage_").astype(float)
        middle.plot(nominal, 100 * covered["value"] - nominal, MARKERS[(i + 1) % 10] + "-", color=colour)
        _line(right, own[(own["metric"] == "spread_skill") & (own["lead_time"] > 0)], learner, i + 1)
    for axis, title, x, y, level in (
        (left, "PIT histogram: flat is calibrated", "probability integral transform", "density", 1.0),
        (middle, "coverage of central intervals", "nominal (%)", "observed minus nominal (points)", 0.0),
        (right, "spread over skill: one is calibrated", "lead time (minutes)", "spread / skill", 1.0),
    ):
        axis.axhline(level, color="0.25", linewidth=1, linestyle="--", zorder=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        _plain(axis)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def forecast_sheet(
    inputs: np.ndarray, rows: Mapping[str, np.ndarray], lead_minutes: tuple[int, ...], kind: str, title: str = ""
) -> Figure:
    """One window: k inputs above, then one row of L frames for each of `rows`, in physical units, NaN where missing.

    Rows named "spread..." have a colour scale of their own; all others share the images' scale.
    """
    style, columns = image_style(kind), max(len(inputs), len(lead_minutes))
    images = {name: values for name, values in rows.items() if not name.startswith("spread")}
    low, high = _limits(np.concatenate([inputs.ravel(), *(v.ravel() for v in images.values())]))
    spreads = [values for name, values in rows.items() if name.startswith("spread")]
    widest = float(np.nanmax(np.stack(spreads))) if spreads else 1.0
    height, width = inputs.shape[-2:]
    cell = 1.55
    figure = Figure(
        figsize=(1.3 + cell * columns + 0.9, 0.5 + cell * height / width * (1 + len(rows)) + 0.25),
        layout=ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0),
    )
    grid = figure.subplots(1 + len(rows), columns, squeeze=False)
    for axis in grid.ravel():
        axis.set_axis_off()
    step = lead_minutes[1] - lead_minutes[0] if len(lead_minutes) > 1 else lead_minutes[0]
    for i, frame in enumerate(inputs):
        axis = grid[0, columns - len(inputs) + i]
        picture = _image(axis, frame, style.colours, low, high)
        axis.set_title(f"{(i + 1 - len(inputs)) * step:+d} min" if i + 1 < len(inputs) else "init", fontsize=8)
    _row_label(grid[0, columns - len(inputs)], "inputs")
    spread_picture = None
    for r, (name, frames) in enumerate(rows.items(), start=1):
        for i, frame in enumerate(frames):
            axis = grid[r, i]
            if name.startswith("spread"):
                spread_picture = _image(axis, frame, "magma", 0.0, widest)
            else:
                _image(axis, frame, style.colours, low, high)
            if r == 1:
                axis.set_title(f"+{lead_minutes[i]} min", fontsize=8)
        _row_label(grid[r, 0], name)
    figure.colorbar(picture, ax=list(grid[:, -1]), shrink=0.45, anchor=(0, 0.9), label=style.label)
    if spread_picture is not None:
        figure.colorbar(spread_picture, ax=list(grid[:, -1]), shrink=0.45, anchor=(0, 0.1), label="spread")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _image(axis: Axes, frame: np.ndarray, colours: Colormap | str, low: float, high: float) -> AxesImage:
    axis.set_axis_on()
    axis.set(xticks=[], yticks=[], facecolor="#d9a0a0")  # what is missing shows as the ground colour
    for spine in axis.spines.values():
        spine.set(color="0.6", linewidth=0.5)
    return axis.imshow(frame, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _row_label(axis: Axes, text: str) -> None:
    axis.set_ylabel(text.replace(": ", ":\n"), fontsize=8, rotation=0, ha="right", va="center")


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.005, 0.995])
    return float(low), float(high) if high > low else float(low) + 1.0


def _line(axis: Axes, own: pd.DataFrame, label: str, i: int, shift: float = 0.0) -> None:
    colour = LEARNERS[i % len(LEARNERS)]
    lead, value = own["lead_time"].to_numpy(float) + shift, own["value"].to_numpy(float)
    axis.plot(lead, value, MARKERS[i % 10] + "-", color=colour, label=label, markersize=4.5, linewidth=1.5)
    reach = np.vstack([value - own["low"].to_numpy(float), own["high"].to_numpy(float) - value])
    if np.isfinite(reach).all():
        axis.errorbar(lead, value, reach.clip(0), fmt="none", ecolor=colour, elinewidth=1, capsize=2, alpha=0.6)


def _channel(rows: pd.DataFrame) -> str:
    channels = list(dict.fromkeys(rows["channel"]))
    return "all" if "all" in channels else channels[0]


def _widest(rows: pd.DataFrame) -> str:
    holdouts = list(dict.fromkeys(rows["holdout"]))
    return "all" if "all" in holdouts else holdouts[0]


def _plain(axis: Axes) -> None:
    axis.grid(True, color="0.88", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
