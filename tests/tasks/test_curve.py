"""The loss curve holds what was reported, whatever came."""

import pytest

from tasks import curve
from tasks.curve import Curve, draw


def test_a_curve_shows_each_score_where_it_belongs() -> None:
    figure = draw({"train/loss": [(1, 3.0), (2, 2.0)], "validation/crps": [(2, 0.5)]})
    above, below = figure.axes
    assert above.lines[0].get_xydata().tolist() == [[1, 3.0], [2, 2.0]]
    assert [line.get_label() for line in below.lines] == ["validation CRPS, adapted", "validation CRPS, M = 0"]
    assert below.lines[0].get_xydata().tolist() == [[2, 0.5]]


def test_nothing_reported_yet_is_an_empty_curve() -> None:
    assert len(draw({}).axes) == 2


def test_a_resumed_curve_goes_on_from_what_was_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(curve, "publish_figure", lambda key, figure, text: drawn.append(figure))
    before = [(10, {"train/loss": 3.0, "noise": 1.0}), (20, {"train/loss": 2.0}), (20, {"validation/crps": 0.5})]
    again = Curve(before)
    again.metrics({"train/loss": 2.5}, 15)  # it goes on from a checkpoint before step 20
    again.close()
    above, below = drawn[0].axes
    assert above.lines[0].get_xydata().tolist() == [[10, 3.0], [15, 2.5]]
    assert below.lines[0].get_xydata().tolist() == [[20, 0.5]]
