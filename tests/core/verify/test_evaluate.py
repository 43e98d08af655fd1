from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from core.config import EvaluateConfig, NetworkConfig, TrainConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta.checks import Examples
from core.model import DataSpec, Model, build_learner
from core.verify.evaluate import evaluate, fit_dressing, score_episodes
from core.verify.rows import learned_rows
from core.verify.scorecard import KEYS
from core.verify.statistics import window_statistics


@pytest.fixture
def config(chain, tmp_path) -> EvaluateConfig:
    return EvaluateConfig(
        run=chain.run, episodes=chain.store, scorecard=str(tmp_path / "scorecard"), members=4, bootstrap_samples=100
    )


def test_evaluate_scores_every_row_on_the_same_windows(config):
    scorecard = evaluate(config)
    table = scorecard.table
    assert list(dict.fromkeys(table["learner"])) == ["persistence", "dressed persistence", "abml, M = 0", "abml, M = 1"]
    assert set(table["lead_time"]) == {0, 30, 60}
    assert set(table["split"]) == {"test"}
    assert np.isfinite(table["value"]).all()
    windows = pd.read_parquet(config.scorecard + "/windows.parquet")
    counts = windows.groupby(["learner", "lead_time"])["count"].sum().unstack("learner")
    assert (counts.nunique(axis=1) == 1).all()
    assert "dressed persistence" in scorecard.terminal
    assert "abml, M = 1 against abml, M = 0" in scorecard.markdown
    assert len(scorecard.figures) == 5
    assert set(KEYS) <= set(windows.columns)
    assert not windows.duplicated(KEYS).any()


def test_a_second_call_skips_and_other_inputs_do_not(config):
    first = evaluate(config)
    again = evaluate(config)
    assert (first.skipped, again.skipped) == (False, True)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not evaluate(config.model_copy(update={"members": 5})).skipped


def test_the_result_does_not_depend_on_how_episodes_are_grouped(config):
    store = EpisodeStore.open(config.episodes)
    ids = store.ids("test").tolist()
    score = partial(
        score_episodes, config.episodes, fit_dressing(store, 0), learned_rows(Model.load(config.run), config.run), 4, 0
    )
    whole, parts = score(ids), pd.concat([score([i]) for i in ids], ignore_index=True)
    pd.testing.assert_frame_equal(whole, parts)


def test_validation_is_another_split(config):
    assert set(evaluate(config.model_copy(update={"split": "validation"})).table["split"]) == {"validation"}


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
