"""Starts that have no forecast of their own since a newer one was made in their place."""

import json
import shutil
from pathlib import Path

import pytest

from core.archive import Archive, Status
from core.config import ForecastConfig
from core.forecast.forecast import forecast
from core.report import Silent


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def config(chain, tmp_path) -> ForecastConfig:
    return ForecastConfig(
        archive=chain.archive, run=chain.run, output=str(tmp_path / "out"), animation=False, members=2,
        support_windows=0,
    )  # fmt: skip


def test_a_start_that_a_newer_one_overtook_is_named(config):
    told = Told()
    forecast(config.model_copy(update={"init_time": "2024-06-03T22:00Z"}), report=told)
    assert not [line for line in told.messages if "superseded" in line]
    forecast(config, report=told)
    assert "superseded by 20240603T2330Z: 20240603T2230Z, 20240603T2300Z" in told.messages
    assert len(json.loads((Path(config.output) / "superseded.json").read_text())) == 2


def test_a_start_that_late_frames_completed_is_named_once_though_nothing_new_is_forecast(config, chain, tmp_path):
    late = str(tmp_path / "late.zarr")
    shutil.copytree(chain.archive, late)
    archive = Archive.open(late, "r+")
    quick = config.model_copy(update={"archive": late})
    told = Told()
    forecast(quick.model_copy(update={"init_time": "2024-06-03T22:00Z"}), report=told)
    archive.set_status(141, archive.channels, Status.ABSENT)
    forecast(quick, report=told)
    assert not [line for line in told.messages if "superseded" in line]
    archive.set_status(141, archive.channels, Status.COMPLETE)
    for _ in range(2):
        assert forecast(quick, report=told).skipped
    assert [line for line in told.messages if "superseded" in line] == [
        "superseded by 20240603T2330Z: 20240603T2230Z, 20240603T2300Z"
    ]
    assert json.loads((Path(quick.output) / "superseded.json").read_text()) == {
        "20240603T2230Z": "20240603T2330Z",
        "20240603T2300Z": "20240603T2330Z",
    }
