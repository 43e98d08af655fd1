"""The points of a grid, and their table."""

from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from core.config import PipelineConfig, change, load
from core.errors import FewcastError
from flows import sweep as flow
from flows.sweep import Row, describe, folder_of, points, validation_scores

RUN = "data/tiny/run"
GRID = ["train.seed=1,2,3"]
TINY = load(Path(__file__).with_name("tiny.toml"))


def test_every_combination_has_a_config_and_a_place_of_its_own() -> None:
    found = points(TINY, ["train.learning_rate=1e-3,3e-3", "train.inner.steps=0,1,2"])
    assert len(found) == 6
    assert {(p.config.train.learning_rate, p.config.train.inner.steps) for p in found} == {
        (rate, steps) for rate in (1e-3, 3e-3) for steps in (0, 1, 2)
    }
    assert len({p.config.train.run for p in found}) == 6
    for point in found:
        assert point.config.evaluate.run == point.config.train.run
        assert point.config.evaluate.split == "validation"
        assert point.config.train.episodes == TINY.train.episodes
        grid = ["train.learning_rate=1e-3,3e-3", "train.inner.steps=0,1,2"]
        assert point.config.tracking.parent == str(folder_of(TINY, grid) / "tracking")
    assert folder_of(TINY, grid) != folder_of(TINY, grid[:1])


@pytest.mark.parametrize("changed", ["train.steps=99", "evaluate.members=7"])
def test_what_the_points_share_is_of_their_place_so_that_no_old_score_is_taken_for_theirs(changed: str) -> None:
    def places(config: PipelineConfig) -> set[str]:
        found = points(config, GRID)
        return {str(folder_of(config, GRID)), *(point.config.train.run for point in found)} | {
            point.config.evaluate.scorecard for point in found
        }

    assert places(TINY) == places(load(Path(__file__).with_name("tiny.toml"))), "the same command finds them again"
    assert places(TINY).isdisjoint(places(change(TINY, [changed])))


@pytest.mark.parametrize("axis", ["episodes.seed=1,2", "train.steps=", "train.steps", "train.run=a,b", "train.steps=0"])
def test_a_grid_that_cannot_be_is_refused_before_anything_begins(axis: str) -> None:
    with pytest.raises(FewcastError):
        points(TINY, ["train.seed=1,2", axis])


@pytest.mark.parametrize(
    ("axis", "names", "values"),
    [
        ("learner=abml,maml", ["learner=abml", "learner=maml"], ["abml", "maml"]),
        ('learner="abml","maml"', ["learner=abml", "learner=maml"], ["abml", "maml"]),
        ("network.extra_inputs=[],['time','sun']",
         ["network.extra_inputs=[]", "network.extra_inputs=[time,sun]"], [[], ["time", "sun"]]),
        ("inner.steps_to_try=[1,2],[5]", ["inner.steps_to_try=[1,2]", "inner.steps_to_try=[5]"], [[1, 2], [5]]),
        ("augment=true,false", ["augment=true", "augment=false"], [True, False]),
        ("fork=data/a,runs:/b", ["fork=data_a", "fork=runs:_b"], ["data/a", "runs:/b"]),
    ],
)  # fmt: skip
def test_values_are_toml_or_bare_words_and_name_a_folder(axis: str, names: list[str], values: list[Any]) -> None:
    found = points(TINY, [f"train.{axis}"])
    assert [Path(point.config.train.run).parent.name for point in found] == names
    keys = axis.partition("=")[0].split(".")
    assert [reduce(getattr, keys, point.config.train) for point in found] == values


def test_the_table_is_sorted_best_first() -> None:
    rows = [Row(["train.seed=1"], failure="no\n|"), Row(["train.seed=2"], 0.3, 0.4), Row(["train.seed=3"], 0.2, 0.5)]
    lines = describe(rows).splitlines()
    assert lines[0] == "| settings | CRPS | CRPS at M = 0 |"
    assert lines[2:] == [
        "| train.seed=3 | 0.2000 | 0.5000 |",
        "| train.seed=2 | 0.3000 | 0.4000 |",
        "| train.seed=1 | no / | - |",
    ]


def scorecard(crps: float) -> Any:
    """What an evaluation leaves, with rows that score better than the run and are not its forecast."""
    rows = [
        ("optimum", "", "", 0, 0.01), ("step_curve", RUN, "best", 2, 0.02), ("support_curve", RUN, "best", 1, 0.03),
        ("ensemble", RUN, "best", 0, 0.04), ("baseline", "", "", 0, 0.05), ("learner", RUN, "pretrained", 4, 0.06),
        ("learner", "another", "best", 4, 0.07), ("learner", RUN, "best", 1, crps), ("learner", RUN, "best", 0, 0.9),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["kind", "run", "checkpoint", "inner_steps", "value"])
    return SimpleNamespace(
        table=table.assign(metric="crps", reference="", lead_time=0, channel="ir", holdout="time", split="validation")
    )


def test_a_point_is_judged_by_its_own_adapted_forecast() -> None:
    assert validation_scores(scorecard(0.5), RUN) == (0.5, 0.9)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (FewcastError("the meta-loss is not finite", found="nan", mend="lower it"), "the meta-loss is not finite"),
        (RuntimeError("out of memory"), "RuntimeError: out of memory"),
    ],
)
def test_a_point_that_fails_does_not_keep_the_others_from_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    def train(config: Any, tracking: Any) -> None:
        if config.seed == 1:
            raise failure

    tracked, kept, published = [], [], []

    class Run:
        def __init__(self, folder: Path, *_: Any) -> None:
            folder.mkdir(parents=True)
            tracked.append(folder)

        def __enter__(self) -> Any:
            return SimpleNamespace(artifact=lambda path: kept.append(path.read_text()))

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(flow, "train", train)
    monkeypatch.setattr(flow, "evaluate", lambda config, _: scorecard({2: 0.6, 3: 0.4}[int(config.run[-5])]))
    monkeypatch.setattr(flow, "validation_scores", lambda scorecard, _: validation_scores(scorecard, RUN))
    monkeypatch.setattr(flow, "TrackedRun", Run)
    monkeypatch.setattr(flow, "create_markdown_artifact", lambda text, key: published.append(text))
    config = TINY.model_copy(update={"root": str(tmp_path)})
    with pytest.raises(FewcastError, match=f"1 of 3 points of the sweep have no score: found {said}"):
        flow.sweep.fn(config, GRID)
    assert [line.split("|")[1].strip() for line in kept[0].splitlines()[2:]] == [
        "train.seed=3",
        "train.seed=2",
        "train.seed=1",
    ]
    assert published == kept
    with pytest.raises(FewcastError):
        flow.sweep.fn(config, ["train.steps=1,0"])
    assert len(tracked) == 1, "a grid that cannot be has no run"
