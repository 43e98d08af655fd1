"""Fine-tuning is tuned: what is chosen is the best of what was tried, and its calibration is its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.calibration import LEVEL, STDS, Calibration
from core.config import EvaluateConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.meta.checks import Examples
from core.report import Silent
from core.verify import fine_tuning
from core.verify.fine_tuning import choose_fine_tuning, crps_of_choices, trajectory
from core.verify.rows import Plan, learned_rows, open_model
from core.verify.scoring import fit_dressing, score_episodes


@pytest.fixture
def config(chain, monkeypatch) -> EvaluateConfig:
    monkeypatch.setattr(fine_tuning, "RATES", (1e-2, 1e-1, 1e6))
    monkeypatch.setattr(fine_tuning, "STEPS", (1, 3))
    monkeypatch.setattr(fine_tuning, "_EPISODES", 3)
    return EvaluateConfig(run=chain.run, episodes=chain.store, shuffled=False, members=2)


@pytest.fixture
def store(config) -> EpisodeStore:
    return EpisodeStore.open(config.episodes)


@pytest.fixture
def row(config):
    return next(row for row in learned_rows(config) if row.fine_tuned)


def _scored(config, store, row, ids):
    windows, failed = score_episodes(config.episodes, Plan((row,), fit_dressing(store, 0), False, 2, 0), ids)
    return windows[windows["learner"] == row.name], failed


def test_the_trajectory_passes_where_separate_adaptations_end(row, store):
    model = open_model(row.runs[0], row.which, 0.1)
    support = Loader(store, split="validation").load(store.ids("validation")[:1]).support
    examples = Examples(support.x[0], support.y[0], support.mask[0])
    for count, posterior in trajectory(model, examples, (1, 2, 5)):
        alone = model.adapt(examples, count)
        for name, leaf in alone.mean.items():
            torch.testing.assert_close(posterior.mean[name], leaf, rtol=0, atol=0)
        torch.testing.assert_close(posterior.support[-1], alone.support[-1], rtol=0, atol=0)


def test_the_best_of_all_choices_is_taken_and_one_that_diverges_is_not(config, store, row):
    chosen, [note] = choose_fine_tuning(config, store, learned_rows(config), Silent())
    tuned = next(row for row in chosen if row.fine_tuned)
    ids = fine_tuning.spread_evenly(fine_tuning.validation_ids(store, row), 3)
    tried = crps_of_choices(config.episodes, row, ids, (1, 3), Silent())
    assert set(tried) == {(1e-2, 1), (1e-2, 3), (1e-1, 1), (1e-1, 3), (1e6, 1)}  # a second step so long diverges
    best = min(tried, key=tried.__getitem__)
    assert (tuned.rate, tuned.steps) == best
    assert tuned.name == f"pooled start, fine-tuned {tuned.steps}"
    plain = Calibration(((1.0,) * len(STDS),) * 2)
    windows, failed = _scored(config, store, replace(tuned, calibration=plain), ids)
    assert not failed
    assert windows["crps"].sum() / windows["count"].sum() == pytest.approx(tried[best])
    for words in (f"step size {best[0]:g}, {best[1]} steps", "on 3 validation episodes", "calibrated on"):
        assert words in note
    assert ("at the edge" in note) == (best[0] == 1e-2 or best[1] == 3)


def test_its_control_and_its_curves_are_tuned_as_it_is_and_called_by_what_they_do(config, store, row):
    points = [
        replace(row, kind="shuffled"), replace(row, kind="support_curve", windows=row.steps),
        replace(row, kind="step_curve", steps=2), replace(row, kind="step_curve", steps=0),
    ]  # fmt: skip
    [tuned, shuffled, few, two, none], [note] = choose_fine_tuning(config, store, [row, *points], Silent())
    assert shuffled == replace(tuned, kind="shuffled")
    assert few == replace(tuned, kind="support_curve", windows=row.steps)
    assert two == replace(tuned, kind="step_curve", steps=2)
    assert none == points[-1]
    assert [made.name for made in (shuffled, few, two, none)] == [
        f"pooled start, fine-tuned {tuned.steps}, shuffled support",
        f"pooled start, fine-tuned {tuned.steps}, N_S = {row.steps}",
        "pooled start, fine-tuned 2 (curve)",
        "pooled start (curve)",
    ]
    assert note.startswith(f"{tuned.name}: step size")


def test_its_forecasts_are_calibrated_as_they_are_and_not_as_those_of_the_pooled_start(config, store, row):
    wide = replace(row, rate=0.1, steps=3)
    ids = store.ids("validation").tolist()[:4]
    own = replace(wide, calibration=fine_tuning.fit_calibration(config.episodes, wide, ids, Silent()))
    before, after = (_scored(config, store, one, ids)[0] for one in (wide, own))

    def covered(windows):
        return (windows["inside_90%"].sum() / windows["count"].sum()) - LEVEL

    assert not np.isclose(before["crps"].sum(), after["crps"].sum())
    assert abs(covered(after)) < min(0.03, abs(covered(before)) + 0.005)


def test_without_support_windows_it_is_the_pooled_start_with_the_runs_own_calibration(config, store, row):
    other = Calibration(((2.0,) * len(STDS),) * 2)
    start, none = replace(row, steps=0), replace(row, kind="support_curve", windows=0, calibration=other)
    ids = store.ids("test").tolist()[:2]
    expected, found = (_scored(config, store, one, ids)[0] for one in (start, none))
    np.testing.assert_allclose(found["crps"], expected["crps"])
    np.testing.assert_allclose(found["variance"], expected["variance"])


@pytest.mark.parametrize(("choice", "edge"), [((1e-1, 1), False), ((1e-2, 1), True), ((1e-1, 6), True)])
def test_a_choice_at_the_edge_is_known(config, choice, edge):
    assert fine_tuning.at_the_edge(choice, (1, 3, 6)) == edge
