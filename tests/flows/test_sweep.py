"""The points of a grid, and their table."""

from pathlib import Path

import pytest

from core.config import load
from core.errors import FewcastError
from flows.sweep import describe, points

TINY = load(Path(__file__).with_name("tiny.toml"))


def test_every_combination_has_a_config_and_a_place_of_its_own() -> None:
    found = list(points(TINY, ["train.learning_rate=1e-3,3e-3", "train.inner.steps=0,1,2"]))
    assert len(found) == 6
    assert {(p.config.train.learning_rate, p.config.train.inner.steps) for p in found} == {
        (rate, steps) for rate in (1e-3, 3e-3) for steps in (0, 1, 2)
    }
    assert len({p.config.train.run for p in found}) == 6
    for point in found:
        assert point.config.evaluate.run == point.config.train.run
        assert point.config.evaluate.split == "validation"
        assert point.config.train.episodes == TINY.train.episodes
        assert point.config.tracking.parent == "data/tiny/sweep/tracking"


@pytest.mark.parametrize("axis", ["episodes.seed=1,2", "train.steps=", "train.steps", "train.run=a,b", "train.steps=0"])
def test_a_grid_that_cannot_be_is_refused_before_anything_begins(axis: str) -> None:
    with pytest.raises(FewcastError):
        list(points(TINY, ["train.seed=1,2", axis]))


def test_the_table_is_sorted_best_first() -> None:
    rows = [(0.3, ["train.seed=1"], {"abml": 0.3}), (0.2, ["train.seed=2"], {"abml": 0.2, "other": 0.4})]
    lines = describe(rows).splitlines()
    assert lines[0] == "| settings | CRPS of abml | CRPS of other |"
    assert lines[2:] == ["| train.seed=2 | 0.2000 | 0.4000 |", "| train.seed=1 | 0.3000 | - |"]
