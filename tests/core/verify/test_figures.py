"""Figures that can be read: one look a row, nothing cut off, nothing squashed, maps that order the same in grey."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from core.verify.baselines import CLIMATOLOGY, PERSISTENCE
from core.verify.colours import image_style, line_styles
from core.verify.diagnostics import curve_figure, reliability_figure, texture_figure
from core.verify.events import RELIABILITY_BINS
from core.verify.plots import score_by_lead

NAMES = [PERSISTENCE, CLIMATOLOGY, *(f"a learner of some length, M = {i}" for i in range(14))]


def _table(names=NAMES):
    rows = [
        {"learner": name, "metric": metric, "reference": "", "split": "test", "holdout": "both", "channel": "ir",
         "lead_time": lead, "value": (0.5 if name == CLIMATOLOGY else 0.1) + 0.001 * lead, "low": 0.1, "high": 0.6}
        for name in names for lead in (0, 30, 60) for metric in ("crps", "power_ratio_4_8", "power_ratio_8_16")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _windows(names=NAMES):
    bins = {
        f"rel_{what}_{b}@cloudy": 1.0 for what in ("count", "forecast", "observed") for b in range(RELIABILITY_BINS)
    }
    return pd.DataFrame(
        [{"learner": name, "split": "test", "holdout": "both", "event_count@cloudy": 9.0} | bins for name in names]
    )


def test_sixteen_rows_differ_in_colour_and_in_marker():
    styles = line_styles(NAMES)
    assert len({style.colour for style in styles.values()}) == len({style.marker for style in styles.values()}) == 16


def test_a_row_looks_the_same_in_every_figure_and_no_legend_is_cut():
    styles = line_styles(NAMES)
    for figure in (score_by_lead(_table(), "test", styles), reliability_figure(_windows(), "test", styles),
                   texture_figure(_table(), "test", styles)):  # fmt: skip
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for line in (line for axis in figure.axes for line in axis.lines if line.get_label() in styles):
            style = styles[line.get_label()]
            assert (line.get_color(), line.get_marker(), line.get_linestyle()) == (
                style.colour, style.marker, style.dashes)  # fmt: skip
        [legend] = figure.legends
        box, page = legend.get_window_extent(canvas.get_renderer()), figure.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        assert page.y0 <= box.y0


def test_a_climatology_far_above_all_is_named_and_left_off():
    figure = score_by_lead(_table(), "test", line_styles(NAMES))
    assert figure.axes[0].get_ylim()[1] > 0
    assert CLIMATOLOGY not in figure.axes[0].get_legend_handles_labels()[1]
    assert figure.legends[0].get_title().get_text() == f"not shown: {CLIMATOLOGY}, 0.53 to 0.56"
    near = _table([PERSISTENCE, CLIMATOLOGY]).assign(value=0.2)
    assert CLIMATOLOGY in score_by_lead(near, "test", line_styles(NAMES)).axes[0].get_legend_handles_labels()[1]


def test_a_curve_is_drawn_by_what_its_rows_are_and_not_by_their_names():
    points = [("support_curve", 8, 6, 0.2), ("support_curve", 0, 0, 0.3), ("step_curve", 16, 3, 0.1),
              ("learner", 16, 6, 0.15), ("optimum", 0, 0, 0.05)]  # fmt: skip
    table = pd.DataFrame(
        [{"kind": kind, "support_windows": windows, "inner_steps": steps, "value": value, "low": value, "high": value,
          "learner": f"row {i}", "metric": "crps", "reference": "", "split": "test", "holdout": "both",
          "channel": "ir", "lead_time": 0} for i, (kind, windows, steps, value) in enumerate(points)]
    )  # fmt: skip
    figure = curve_figure(table, "test")
    assert figure is not None
    (few, few_best), (steps, steps_best) = (axis.lines for axis in figure.axes)
    assert few.get_xydata().tolist() == [[0, 0.3], [8, 0.2]]
    assert steps.get_xydata().tolist() == [[3, 0.1]]
    assert {line.get_ydata()[0] for line in (few_best, steps_best)} == {0.05}
    assert curve_figure(table[table["kind"] == "learner"], "test") is None


@pytest.mark.parametrize("kind", ["brightness_temperature", "reflectance", "display_count"])
def test_the_lightness_of_an_image_only_grows(kind):
    colours = image_style(kind).colours(np.linspace(0, 1, 128))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    change = np.diff(luminance)
    assert (change > 0).all() or (change < 0).all()
    assert to_rgb(colours[0]) != to_rgb(colours[-1])
