"""The loss curve holds what was reported, whatever came."""

from tasks.curve import draw


def test_a_curve_shows_each_score_where_it_belongs() -> None:
    figure = draw({"train/loss": [(1, 3.0), (2, 2.0)], "validation/crps": [(2, 0.5)]})
    above, below = figure.axes
    assert above.lines[0].get_xydata().tolist() == [[1, 3.0], [2, 2.0]]
    assert [line.get_label() for line in below.lines] == ["validation CRPS, adapted", "validation CRPS, M = 0"]
    assert below.lines[0].get_xydata().tolist() == [[2, 0.5]]


def test_nothing_reported_yet_is_an_empty_curve() -> None:
    assert len(draw({}).axes) == 2
