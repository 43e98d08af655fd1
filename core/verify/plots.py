"""The pictures of a scorecard. Each function takes tables or arrays and gives a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from core.verify.baselines import CLIMATOLOGY
from core.verify.colours import LineStyle, image_style
from core.verify.panels import Panel
from core.verify.statistics import PIT_BINS, pit_histogram
from core.verify.tables import headline, headline_windows, holdout_words

Styles = Mapping[str, LineStyle]  # of the rows to show, in their order


def score_by_lead(table: pd.DataFrame, split: str, styles: Styles, metric: str = "crps") -> Figure:
    """A metric against lead time with its 95 % intervals, one panel a kind of hold-out, one line a learner.

    A climatology that is worse than all else everywhere is named and left off: on its scale the others are one line.
    """
    rows = table[(table["split"] == split) & (table["metric"] == metric) & (table["reference"] == "")]
    rows = rows[(rows["channel"] == _channel(rows)) & (rows["lead_time"] > 0) & rows["learner"].isin(list(styles))]
    rows = rows[(rows["holdout"] != "all") | (rows["holdout"].nunique() == 1)]
    own = rows["learner"] == CLIMATOLOGY
    off = ""
    if own.any() and rows.loc[own, "value"].min() > rows.loc[~own, "value"].max():
        off = f"not shown: {CLIMATOLOGY}, {rows.loc[own, 'value'].min():.2f} to {rows.loc[own, 'value'].max():.2f}"
        rows = rows[~own]
    holdouts = list(dict.fromkeys(rows["holdout"]))
    figure = Figure(figsize=(1.2 + 3.6 * max(len(holdouts), 2), 3.4), layout="constrained")
    axes = figure.subplots(1, len(holdouts), sharey=True, squeeze=False)[0]
    learners = [name for name in styles if name in set(rows["learner"])]
    leads = np.sort(rows["lead_time"].unique())
    step = float(np.diff(leads).min()) if len(leads) > 1 else 1.0
    for axis, holdout in zip(axes, holdouts, strict=True):
        for i, learner in enumerate(learners):
            own = rows[(rows["learner"] == learner) & (rows["holdout"] == holdout)].sort_values("lead_time")
            _line(axis, own, learner, styles[learner], shift=(i - (len(learners) - 1) / 2) * 0.05 * step)
        axis.set_title(holdout_words(holdout), fontsize=10)
        axis.set_xlabel("lead time (minutes)")
        axis.set_xticks(leads)
        plain_axis(axis)
    axes[0].set_ylabel(f"{metric.upper()} (standardised units)")
    legend_below(figure, axes[0], off)
    return figure


def calibration(windows: pd.DataFrame, table: pd.DataFrame, split: str, styles: Styles) -> Figure:
    """PIT histograms, coverage against its nominal value, spread over skill by lead time; of the headline hold-out."""
    rows = table[(table["split"] == split) & (table["reference"] == "")]
    holdout = headline(rows["holdout"])
    rows = rows[(rows["channel"] == _channel(rows)) & (rows["holdout"] == holdout)]
    windows = headline_windows(windows[windows["split"] == split])
    spread = set(rows[rows["metric"] == "spread_skill"]["learner"])  # a point has none
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    edges = np.linspace(0, 1, PIT_BINS + 1)
    for learner, style in styles.items():
        if learner not in spread:
            continue
        state = windows[windows["learner"] == learner].filter(like="pit_").sum()
        left.stairs(PIT_BINS * pit_histogram(state), edges, color=style.colour, linewidth=1.6, linestyle=style.dashes)
        own = rows[(rows["learner"] == learner)]
        covered = own[(own["lead_time"] == 0) & own["metric"].str.startswith("coverage_")]
        nominal = covered["metric"].str.removeprefix("coverage_").astype(float)
        middle.plot(nominal, 100 * covered["value"] - nominal, **line_of(style))
        _line(right, own[(own["metric"] == "spread_skill") & (own["lead_time"] > 0)], learner, style)
    for axis, title, x, y, level in (
        (left, "PIT histogram: flat is calibrated", "probability integral transform", "density", 1.0),
        (middle, "coverage of central intervals", "nominal (%)", "observed minus nominal (points)", 0.0),
        (right, "spread over skill: one is calibrated", "lead time (minutes)", "spread / skill", 1.0),
    ):
        axis.axhline(level, color="0.25", linewidth=1, zorder=1)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        plain_axis(axis)
    figure.suptitle(holdout_words(holdout), fontsize=11)
    legend_below(figure, right)
    return figure


def forecast_sheet(
    inputs: np.ndarray, panels: Sequence[Panel], lead_minutes: tuple[int, ...], kind: str, title: str = ""
) -> Figure:
    """One window: k inputs above, then a row of L frames for each of the panels; all images share one scale."""
    style, columns = image_style(kind), max(len(inputs), len(lead_minutes))
    low, high = image_limits(inputs, panels)
    page = _Page(inputs.shape[-2:], columns, 1 + len(panels), title)
    step = lead_minutes[1] - lead_minutes[0] if len(lead_minutes) > 1 else lead_minutes[0]
    first = columns - len(inputs)
    bars: dict[str, AxesImage] = {}
    for i, frame in enumerate(inputs):
        axis = page.axis(0, first + i, label="inputs" if i == 0 else "")
        bars[style.label] = _image(axis, frame, style.colours, low, high)
        ago = (i + 1 - len(inputs)) * step
        axis.set_title(f"{ago:+d} min" if ago else "init", fontsize=8, pad=3)
    for r, panel in enumerate(panels, start=1):
        for i, frame in enumerate(panel.values):
            axis = page.axis(r, i, label=panel.title if i == 0 else "")
            if measure := panel.measure:
                bars[measure.label] = _image(axis, frame, measure.colours, *measure.range(panel.values))
            else:
                _image(axis, frame, style.colours, low, high)
            if r == 1:
                axis.set_title(f"+{lead_minutes[i]} min", fontsize=8, pad=3)
    for place, (label, picture) in enumerate(bars.items()):
        page.colour_bar(picture, label, place, len(bars))
    return page.figure


class _Page:
    """A grid of equal images laid out in inches, with row labels on the left and two colour bars on the right."""

    left, right, gap, head = 1.05, 0.95, 0.05, 0.22

    def __init__(self, shape: tuple[int, ...], columns: int, rows: int, title: str) -> None:
        self.width = float(min(11.0 / columns, 2.6, 12.0 / rows * shape[1] / shape[0]))  # within a page
        self.height = self.width * shape[0] / shape[1]
        self.top = 0.35 if title else 0.1
        self.size = (
            self.left + columns * (self.width + self.gap) + self.right,
            self.top + 2 * self.head + rows * (self.height + self.gap) + 0.1,
        )
        self.figure = Figure(figsize=self.size)
        if title:
            self.figure.text(self.left / self.size[0], 1 - 0.22 / self.size[1], title, fontsize=10)

    def _place(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches from the top left corner to matplotlib's fractions from the bottom left."""
        across, down = self.size
        return x / across, 1 - (y + height) / down, width / across, height / down

    def axis(self, row: int, column: int, label: str = "") -> Axes:
        x = self.left + column * (self.width + self.gap)
        y = self.top + self.head * (1 + (row > 0)) + row * (self.height + self.gap)
        axis = self.figure.add_axes(self._place(x, y, self.width, self.height))
        if label:
            axis.set_ylabel(label.replace(": ", ":\n"), fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
        return axis

    def colour_bar(self, picture: AxesImage, label: str, place: int, places: int) -> None:
        """One of the bars in the right margin, from above."""
        room = (self.size[1] - self.top - self.head) / places
        length, y = min(2.6, 0.82 * room), self.top + self.head + place * room
        axis = self.figure.add_axes(self._place(self.size[0] - self.right + 0.1, y, 0.13, length))
        bar = self.figure.colorbar(picture, cax=axis)
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
        bar.outline.set_linewidth(0.5)


def _image(axis: Axes, frame: np.ndarray, colours: Colormap | str, low: float, high: float) -> AxesImage:
    axis.set(xticks=[], yticks=[], facecolor="#d9a0a0")  # what is missing shows as the ground colour
    for spine in axis.spines.values():
        spine.set(color="0.6", linewidth=0.5)
    return axis.imshow(frame, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def image_limits(inputs: np.ndarray, panels: Sequence[Panel]) -> tuple[float, float]:
    """The scale that the inputs and all panels that are images share."""
    return limits(np.concatenate([inputs.ravel(), *(p.values.ravel() for p in panels if p.measure is None)]))


def limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.005, 0.995])
    return float(low), float(high) if high > low else float(low) + 1.0


def _line(axis: Axes, own: pd.DataFrame, label: str, style: LineStyle, shift: float = 0.0) -> None:
    lead, value = own["lead_time"].to_numpy(float) + shift, own["value"].to_numpy(float)
    axis.plot(lead, value, label=label, **line_of(style))
    reach = np.vstack([value - own["low"].to_numpy(float), own["high"].to_numpy(float) - value])
    if np.isfinite(reach).all():
        axis.errorbar(lead, value, reach.clip(0), fmt="none", ecolor=style.colour, elinewidth=1, capsize=2, alpha=0.6)


def line_of(style: LineStyle) -> dict[str, Any]:
    """Of `Axes.plot`."""
    return {
        "color": style.colour,
        "marker": style.marker,
        "linestyle": style.dashes,
        "markersize": 4.5,
        "linewidth": 1.4,
    }


def legend_below(figure: Figure, axis: Axes, title: str = "") -> None:
    """The legend of one axis under all of them, in as many columns as the width holds, on paper added for it."""
    handles, labels = axis.get_legend_handles_labels()
    longest = max(map(len, labels), default=1)
    columns = max(1, min(len(labels), int(figure.get_figwidth() / (0.75 + 0.075 * longest))))
    figure.set_figheight(figure.get_figheight() + 0.19 * (-(-len(labels) // columns) + bool(title)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9,
                  handlelength=3.5, title=title or None, title_fontsize=9)  # fmt: skip


def _channel(rows: pd.DataFrame) -> str:
    channels = list(dict.fromkeys(rows["channel"]))
    return "all" if "all" in channels else channels[0]


def plain_axis(axis: Axes) -> None:
    axis.grid(True, color="0.88", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
