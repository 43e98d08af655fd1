"""Evaluations of awkward data: what is undefined is left out, or said in words, and no NaN is shown."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.config import EvaluateConfig, Threshold
from core.episodes.builder import build
from core.episodes.store import EpisodeStore
from core.verify.domain import StepsSettings
from core.verify.evaluate import evaluate
from tests.core.conftest import tiny_episodes, write_archive


@pytest.fixture
def config(chain, tmp_path, monkeypatch) -> EvaluateConfig:
    """All baselines, and an event that never is; the episodes are to be built."""
    monkeypatch.setattr("core.verify.domain_rows.CANDIDATES", (StepsSettings(),))
    monkeypatch.setattr("core.verify.domain_rows._STARTS_TO_CHOOSE_ON", 1)
    return EvaluateConfig(
        run=chain.run, episodes=str(tmp_path / "episodes.zarr"), archive=chain.archive, members=2,
        scorecard=str(tmp_path / "scorecard"), bootstrap_samples=100, pretrained=False, support_curve=[1],
        baselines=["climatology", "optical_flow", "steps"], thresholds=[Threshold(name="never", value=100.0)],
    )  # fmt: skip


def shown(config: EvaluateConfig) -> list[str]:
    """What people read of a scorecard."""
    folder = Path(config.scorecard)
    return [(folder / "scorecard.md").read_text(), re.sub('base64,[^"]*', "", (folder / "scorecard.html").read_text())]


def test_one_window_is_scored_without_intervals_and_without_a_nan(config, chain, monkeypatch):
    build(tiny_episodes(chain.archive, config.episodes, query_windows=1))
    every = EpisodeStore.ids
    monkeypatch.setattr(EpisodeStore, "ids", lambda self, *of: every(self, *of)[: 1 if of[0] == "test" else None])
    scorecard = evaluate(config)
    table = scorecard.table
    assert set(table["windows"]) == set(table["blocks"]) == {1}
    assert np.isfinite(table["value"]).all()
    assert table["low"].isna().all()
    assert {"crps", "rmse", "spread_skill", "coverage_90", "crps_skill", "brier@never"} <= set(table["metric"])
    assert "csi@never" not in set(table["metric"])
    assert "optical flow" in set(table["learner"])
    folder = Path(config.scorecard)
    assert len(pd.read_parquet(folder / "windows.parquet")[["episode", "window"]].drop_duplicates()) == 1
    assert np.isfinite(pd.read_parquet(folder / "cuts.parquet")["crps"]).all()
    for text in (scorecard.terminal, *shown(config)):
        assert not re.search(r"\bnan\b", text, re.I)
        assert "one block only, so no interval and no verdict" in text


def test_a_sky_that_never_changes_has_no_skill_to_speak_of_and_says_so(config, tmp_path):
    constant = np.full((48, 64), 251.3, np.float32)
    url = str(tmp_path / "constant.zarr")
    write_archive(url, dict.fromkeys(range(3 * 48), constant))
    build(tiny_episodes(url, config.episodes))
    scorecard = evaluate(config.model_copy(update={"archive": url}))
    table = scorecard.table
    assert np.isfinite(table["value"]).all()
    crps = table[(table["metric"] == "crps") & (table["lead_time"] == 0) & (table["holdout"] == "all")]
    assert (crps.set_index("learner")["value"][["persistence", "optical flow", "STEPS"]] < 1e-3).all()
    assert not table["metric"].str.startswith("power_ratio").any()
    for text in (scorecard.terminal, *shown(config)):
        assert not re.search(r"\bnan\b", text, re.I)
        assert "undefined, since the reference has no error" in text
