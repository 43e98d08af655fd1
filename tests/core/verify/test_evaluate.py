import numpy as np
import pandas as pd
import pytest

from core.errors import FewcastError
from core.verify.evaluate import evaluate
from core.verify.scorecard import KEYS


def test_evaluate_scores_every_row_on_the_same_windows(config):
    scorecard = evaluate(config)
    table = scorecard.table
    assert list(dict.fromkeys(table["learner"])) == ["persistence", "dressed persistence", "abml, M = 0", "abml, M = 1"]
    assert set(table["lead_time"]) == {0, 30, 60, 90}
    assert set(table["split"]) == {"test"}
    assert np.isfinite(table["value"]).all()
    windows = pd.read_parquet(config.scorecard + "/windows.parquet")
    counts = windows.groupby(["learner", "lead_time"])["count"].sum().unstack("learner")
    assert (counts.nunique(axis=1) == 1).all()
    assert "dressed persistence" in scorecard.terminal
    assert "abml, M = 1 against abml, M = 0" in scorecard.markdown
    assert len(scorecard.figures) == 5


def test_a_second_call_skips_and_other_inputs_do_not(config):
    first = evaluate(config)
    again = evaluate(config)
    assert (first.skipped, again.skipped) == (False, True)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not evaluate(config.model_copy(update={"members": 5})).skipped


def test_the_result_does_not_depend_on_how_episodes_are_grouped(config, monkeypatch, tmp_path):
    first = evaluate(config).table
    monkeypatch.setattr("core.verify.evaluate._EPISODES_A_CALL", 1)
    other = evaluate(config.model_copy(update={"scorecard": str(tmp_path / "other")})).table
    pd.testing.assert_frame_equal(first, other)


def test_validation_is_another_split(config):
    assert set(evaluate(config.model_copy(update={"split": "validation"})).table["split"]) == {"validation"}


def test_a_run_that_is_not_there_is_one_clear_line(config, tmp_path):
    with pytest.raises(FewcastError, match="no trained run"):
        evaluate(config.model_copy(update={"run": str(tmp_path / "nowhere")}))


def test_keys_are_the_columns_that_do_not_add_up(config):
    evaluate(config)
    windows = pd.read_parquet(config.scorecard + "/windows.parquet")
    assert set(KEYS) <= set(windows.columns)
    assert not windows.duplicated(KEYS).any()
