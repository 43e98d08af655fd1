import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import pytest
import torch

from core.config import EvaluateConfig, NetworkConfig, Threshold, TrainConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import Examples
from core.model import DataSpec, Model, build_learner, find
from core.report import Silent
from core.training.pace import trained
from core.verify.domain import StepsSettings
from core.verify.evaluate import curve_within, evaluate, inputs_of
from core.verify.pictures import telling_windows
from core.verify.rows import LearnedRow, Plan, forget_models, learned_rows, short_path
from core.verify.scorecard import FACTS, KEYS
from core.verify.scoring import fit_dressing, partner, score_all, score_episodes
from core.verify.statistics import window_statistics


@pytest.fixture
def config(chain, tmp_path) -> EvaluateConfig:
    return EvaluateConfig(
        run=chain.run, episodes=chain.store, scorecard=str(tmp_path / "scorecard"), members=4, bootstrap_samples=100,
        pretrained=False, shuffled=False,
    )  # fmt: skip


def test_evaluate_scores_every_row_on_the_same_windows(config, chain, monkeypatch):
    monkeypatch.setattr("core.verify.domain_rows.CANDIDATES", (StepsSettings(), StepsSettings(cascade_levels=4)))
    monkeypatch.setattr("core.verify.domain_rows._STARTS_TO_CHOOSE_ON", 1)
    monkeypatch.setattr("core.verify.fine_tuning.RATES", (1e-2, 1e-1))
    monkeypatch.setattr("core.verify.fine_tuning.STEPS", (1,))
    monkeypatch.setattr("core.verify.fine_tuning._EPISODES", 2)
    scorecard = evaluate(config.model_copy(update={
        "archive": chain.archive, "baselines": ["climatology", "optical_flow", "steps"], "support_curve": [0, 1],
        "step_curve": [2], "pretrained": True, "shuffled": True, "deep_ensemble": [chain.run, chain.run],
    }))  # fmt: skip
    table = scorecard.table
    assert set(table["learner"]) == {
        "persistence", "dressed persistence", "climatology of the support", "optical flow", "STEPS", "abml, M = 0",
        "abml, M = 1", "pooled start", "pooled start, fine-tuned 1", "abml, M = 1, shuffled support",
        "abml, M = 1, N_S = 0", "abml, M = 1, N_S = 1", "abml, M = 2 (curve)", "deep ensemble of 2",
    }  # fmt: skip
    assert set(table["lead_time"]) == {0, 30, 60}
    assert set(table["split"]) == {"test"}
    assert np.isfinite(table["value"]).all()
    windows = pd.read_parquet(config.scorecard + "/windows.parquet")
    counts = windows.groupby(["learner", "holdout", "lead_time"])["count"].sum().unstack("learner")
    assert (counts.nunique(axis=1) == 1).all()
    assert set(KEYS) <= set(windows.columns)
    assert not windows.duplicated(KEYS).any()
    for words in ("STEPS: 20 members", "step size", "abml, M = 1 against abml, M = 0"):
        assert words in scorecard.markdown
    assert "dressed persistence" in scorecard.terminal
    assert len(scorecard.figures) == 10
    crps = windows.groupby("learner")["crps"].sum()
    assert crps["abml, M = 1, N_S = 0"] == pytest.approx(crps["abml, M = 0"])
    assert crps["deep ensemble of 2"] < crps["persistence"]
    assert crps["abml, M = 1, shuffled support"] != crps["abml, M = 1"]
    facts = table.groupby("learner")[FACTS].first()
    kinds = {"persistence": "baseline", "abml, M = 0": "learner", "deep ensemble of 2": "ensemble",
             "abml, M = 1, shuffled support": "shuffled", "abml, M = 1, N_S = 1": "support_curve",
             "abml, M = 2 (curve)": "step_curve"}  # fmt: skip
    assert facts["kind"][list(kinds)].to_dict() == kinds
    assert facts["support_windows"]["abml, M = 1, N_S = 1"] == 1
    assert facts["support_windows"]["abml, M = 1"] == facts["support_windows"]["climatology of the support"] == 2
    assert facts["inner_steps"]["abml, M = 2 (curve)"] == 2
    assert facts["checkpoint"]["pooled start, fine-tuned 1"] == "pretrained"
    assert facts["run"][["STEPS", "abml, M = 1"]].tolist() == ["", chain.run]
    seconds = facts["training_seconds"]
    assert seconds["abml, M = 1"] == pytest.approx(trained(Model.load(chain.run).seconds))
    assert seconds["abml, M = 1"] > seconds["pooled start"] > seconds["STEPS"] == 0
    assert seconds["deep ensemble of 2"] == pytest.approx(2 * seconds["abml, M = 1"])
    assert re.search(r": abml, [\d,]+ weights, \d steps in \d+ s of training \(steps", scorecard.markdown)
    page = Path(config.scorecard, "scorecard.html").read_text()
    assert page.count("data:image/png;base64,") == 10
    assert "nan" not in re.sub('base64,[^"]*', "", page)


def test_a_second_call_skips_and_other_inputs_do_not(config):
    first = evaluate(config)
    again = evaluate(config)
    assert (first.skipped, again.skipped) == (False, True)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not evaluate(config.model_copy(update={"members": 5})).skipped


def _train_on(run: str) -> None:
    """A new best checkpoint of the run."""
    last = find(Path(run), "last")
    moved = {name: leaf + 0.01 for name, leaf in last.tensors.items() if "mean/" in name}
    checkpoint.save(Path(run), last.step + 1, {**last.tensors, **moved}, last.meta | {"best_step": None})


def test_a_run_that_was_trained_on_is_scored_as_it_is_now(config, tmp_path):
    """The threads that score outlive an evaluation, and what they have loaded with them."""
    run, fresh = (str(tmp_path / name) for name in ("run", "fresh"))
    shutil.copytree(config.run, run)
    mine = config.model_copy(update={"run": run})
    with ThreadPoolExecutor(1) as pool, dask.config.set(pool=pool):
        evaluate(mine)
        _train_on(run)
        again = evaluate(mine)
    shutil.copytree(run, fresh)
    other = evaluate(mine.model_copy(update={"run": fresh, "scorecard": str(tmp_path / "other")}))
    assert not again.skipped
    windows = [pd.read_parquet(made.folder / "windows.parquet").drop(columns="run") for made in (again, other)]
    pd.testing.assert_frame_equal(*windows, rtol=1e-6)


def test_a_run_that_changes_while_it_is_scored_ends_the_evaluation(config, tmp_path):
    run = str(shutil.copytree(config.run, tmp_path / "run"))
    store = EpisodeStore.open(config.episodes)
    plan = Plan(tuple(learned_rows(config.model_copy(update={"run": run}))), fit_dressing(store, 0), False, 2, 0)
    ids = store.ids("test").tolist()[:1]
    _train_on(run)
    forget_models()
    with pytest.raises(FewcastError, match="has changed while it is scored"):
        score_episodes(config.episodes, plan, ids)


def test_what_is_cloudy_does_not_turn_with_an_event_on_the_clear_side(config):
    warm = [Threshold(name="warm", value=270.0, above=True)]
    cuts = pd.read_parquet(evaluate(config.model_copy(update={"thresholds": warm})).folder / "cuts.parquet")
    windows = pd.read_parquet(config.scorecard + "/windows.parquet")
    own = (
        windows[windows["learner"] == "persistence"].groupby(["episode", "window"])[["observed", "count", "crps"]].sum()
    )
    coldest = own[(own["observed"] / own["count"]).rank() <= len(own) / 3]
    row = cuts[(cuts["value"] == "cloudy") & (cuts["learner"] == "persistence")].iloc[0]
    assert row["crps"] == pytest.approx(coldest["crps"].sum() / coldest["count"].sum())


def test_a_run_beside_and_a_run_in_the_ensemble_are_other_inputs(config, tmp_path):
    other = str(shutil.copytree(config.run, tmp_path / "other"))
    asked = [{}, {"more_runs": [other]}, {"deep_ensemble": [other]}, {"more_runs": [other], "deep_ensemble": [other]}]
    configs = [config.model_copy(update=more) for more in asked]
    assert len({inputs_of(one, learned_rows(one), "")["digest"] for one in configs}) == 4


def test_rows_of_runs_of_one_learner_are_told_apart_by_as_much_of_their_paths_as_it_takes(config, tmp_path):
    others = [str(shutil.copytree(config.run, tmp_path / name / config.run.rpartition("/")[2])) for name in "ab"]
    both = config.model_copy(update={"run": others[0], "more_runs": others[1:]})
    assert [row.name for row in learned_rows(both)] == [
        "abml (a/run), M = 0", "abml (a/run), M = 1", "abml (b/run), M = 0", "abml (b/run), M = 1",
    ]  # fmt: skip
    called = {others[0]: "models:/sky@champion", others[1]: "models:/sky/3"}
    assert [row.name for row in learned_rows(both, called)][::2] == ["abml (sky@champion), M = 0", "abml (3), M = 0"]
    assert short_path("runs/E1", ["runs/E1", "runs/E2"]) == "E1"
    with pytest.raises(FewcastError, match="one name"):
        learned_rows(both.model_copy(update={"more_runs": [f"{others[0]}/."]}))


def test_a_few_shot_curve_ends_where_the_support_does_and_says_so(config):
    store = EpisodeStore.open(config.episodes)
    asked = config.model_copy(update={"support_curve": [0, 1, 2, 4, 8]})
    within, [note] = curve_within(asked, store)
    assert within.support_curve == [0, 1, 2]
    assert note == "Left out of the few-shot curve: N_S = 4 and N_S = 8, since an episode has 2 support windows."
    assert curve_within(within, store) == (within, [])


def test_the_result_does_not_depend_on_how_episodes_are_grouped(config):
    store = EpisodeStore.open(config.episodes)
    ids = store.ids("test").tolist()
    plan = Plan(tuple(learned_rows(config)), fit_dressing(store, 0), True, 4, 0)
    whole, failed = score_episodes(config.episodes, plan, ids)
    parts = [score_episodes(config.episodes, plan, [i])[0] for i in ids]
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True))
    assert not failed


def test_a_cluster_in_another_process_gives_the_same_statistics(config):
    from distributed import Client, LocalCluster

    store = EpisodeStore.open(config.episodes)
    ids = store.ids("test").tolist()
    plan = Plan(tuple(learned_rows(config)), fit_dressing(store, 0), True, 4, 0)
    here, _ = score_all(config, store, ids, plan, Silent())
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        there, failed = score_all(config, store, ids, plan, Silent(), client)
    assert not failed
    pd.testing.assert_frame_equal(here, there, rtol=1e-6)


def test_one_window_alone_is_scored_and_drawn():
    windows = pd.DataFrame(
        {"learner": "persistence", "episode": 3, "window": 1, "squared_error": [4.0], "count": [10.0]}
    )
    assert set(telling_windows(windows).values()) == {(3, 1)}


def test_a_row_that_diverges_is_left_out_and_named(config):
    store = EpisodeStore.open(config.episodes)
    wild = LearnedRow("wild", (config.run,), "ensemble", which="pretrained", steps=40, rate=1e6)
    plan = Plan((wild,), fit_dressing(store, 0), False, 2, 0)
    windows, failed = score_all(config, store, store.ids("test").tolist()[:2], plan, Silent())
    assert set(failed) == {"wild"}
    assert re.match(r"episode \d+: the inner loop diverged: found", failed["wild"])
    assert set(windows["learner"]) == {"persistence", "dressed persistence"}


def test_a_row_left_out_says_its_own_reason(config):
    """Two runs of which one has several components and one a single one cannot be pooled, which is no divergence."""
    store = EpisodeStore.open(config.episodes)
    mixed = LearnedRow("mixed", (config.run, config.run), "ensemble")
    single = LearnedRow("none there", (config.run,), "shuffled", windows=0)
    plan = Plan((mixed, single), fit_dressing(store, 0), False, 3, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.verify.rows.pooled_mixture", _refuse)
        windows, failed = score_all(config, store, store.ids("test").tolist()[:1], plan, Silent())
    assert list(failed) == ["mixed"]
    assert failed["mixed"].endswith("unequal numbers of components")
    assert single.name in set(windows["learner"])


def _refuse(*_):
    raise ValueError("unequal numbers of components")


def test_the_partner_of_an_episode_is_another_place(config):
    store = EpisodeStore.open(config.episodes)
    for episode in store.ids("validation"):
        mine, other = store.catalog.iloc[episode], store.catalog.iloc[partner(store, int(episode))]
        assert (mine["row"], mine["col"]) != (other["row"], other["col"])


def test_validation_is_another_split(config):
    asked = {"split": "validation", "baselines": ["optical_flow", "steps"]}
    scorecard = evaluate(config.model_copy(update=asked))
    assert set(scorecard.table["split"]) == {"validation"}
    assert "optical flow and STEPS left out" in scorecard.markdown


def test_a_run_that_is_not_there_is_one_clear_line(config, tmp_path):
    with pytest.raises(FewcastError, match="no trained run"):
        evaluate(config.model_copy(update={"run": str(tmp_path / "nowhere")}))


@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian_scale"])
@pytest.mark.parametrize("learner", ["pooled", "maml", "abml"])
@pytest.mark.parametrize("members", [1, 3])
def test_every_learner_and_likelihood_gives_a_mixture_that_can_be_scored(learner, likelihood, members, tmp_path):
    spec = DataSpec(
        channels=("ir", "wv"), input_frames=2, target_frames=3, lead_minutes=(10, 20, 30), tile_pixels=16,
        margin_pixels=0, mean=(0.0, 0.0), std=(1.0, 1.0),
    )  # fmt: skip
    config = TrainConfig(learner=learner, likelihood=likelihood, network=NetworkConfig(width=4, depth=1))
    built = build_learner(config, spec)
    model = Model(built, built.init_state(), built.config, spec, 0, tmp_path, "", "")
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 16, 16, generator=generator), torch.randn(2, 6, 16, 16, generator=generator)
    mask = torch.rand(y.shape, generator=generator) > 0.2
    posterior = model.adapt(Examples(x, y, mask), steps=1)
    with torch.no_grad():
        mixture = model.predict(posterior, x, members, seed=1)
    for field in (mixture.mean(), mixture.variance(), mixture.crps(y), mixture.nll(y), mixture.cdf(y),
                  mixture.quantile(0.3), mixture.exceedance(0.5)):  # fmt: skip
        assert field.shape == y.shape
    assert mixture.members(generator).shape == (members, *y.shape)
    assert window_statistics(mixture, y, mask)["crps"].shape == (2, 6)
