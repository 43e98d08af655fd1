"""The baselines of the whole domain forecast from the episodes' own archive, and once while its frames stay."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.config import EvaluateConfig
from core.episodes.frames import shard_key
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.report import Silent
from core.verify import domain_rows
from core.verify.domain import StepsSettings
from core.verify.domain_rows import Job, require_archive, score_starts
from core.verify.evaluate import evaluate
from tests.core.conftest import write_archive


@pytest.fixture
def store(chain) -> EpisodeStore:
    return EpisodeStore.open(chain.store)


@pytest.mark.parametrize(
    ("shape", "cadence", "found"),
    [(None, 0, "none at evaluate.archive = "), ((40, 64), 30, "another grid"), ((48, 64), 20, "every 20 minutes")],
)
def test_another_archive_is_refused_before_anything_is_scored(chain, tmp_path, monkeypatch, shape, cadence, found):
    url = str(tmp_path / "other.zarr") if shape else ""
    if shape:
        write_archive(url, {0: np.full(shape, 260.0, np.float32)}, cadence)
    monkeypatch.setattr("core.verify.evaluate.score_all", lambda *_: pytest.fail("scored"))
    config = EvaluateConfig(
        run=chain.run, episodes=chain.store, archive=url, scorecard=str(tmp_path / "scorecard"),
        baselines=["optical_flow"], pretrained=False,
    )  # fmt: skip
    with pytest.raises(FewcastError, match=r"evaluate\.archive") as error:
        evaluate(config)
    assert found in str(error.value)
    assert ("is not the one that the episodes were cut from" in str(error.value)) == bool(url)
    assert "ingest.archive" not in str(error.value)


def test_a_start_from_before_the_archive_begins_is_refused(store, tmp_path, monkeypatch):
    url = str(tmp_path / "later.zarr")
    monkeypatch.setattr("tests.core.conftest.START", datetime(2024, 7, 1, tzinfo=UTC))
    write_archive(url, {0: np.full((48, 64), 260.0, np.float32)})
    with pytest.raises(FewcastError, match="not the one that the episodes were cut from: found frames every 30"):
        require_archive(url, store, ["optical_flow"])


def test_a_start_is_forecast_once_while_its_frames_stay_as_they_are(chain, store, tmp_path, monkeypatch):
    archive = str(shutil.copytree(chain.archive, tmp_path / "archive.zarr"))
    job = Job(archive, chain.store, "optical_flow", StepsSettings(), 2, 0, ())
    starts: list[np.datetime64] = []

    def scored() -> tuple[str, int, pd.DataFrame]:
        starts.clear()
        windows = score_starts(job, store, "test", str(tmp_path / "kept"), Silent())
        return require_archive(archive, store, ["optical_flow"]), len(starts), windows

    forecast = domain_rows._forecast
    monkeypatch.setattr(domain_rows, "_forecast", lambda *of: starts.append(of[-1]) or forecast(*of))
    first, second = scored(), scored()
    assert first[1] == len(first[2]["init_time"].unique())
    assert second[:2] == (first[0], 0)
    pd.testing.assert_frame_equal(first[2], second[2])
    slot = int((store.init_times(store.ids("test"))[1][0, 0] - np.datetime64("2024-06-01")) / np.timedelta64(30, "m"))
    os.utime(Path(archive, shard_key("brightness_temperature", slot)), ns=(0, 0))
    again = scored()
    assert again[0] != first[0]
    assert again[1] == first[1]
