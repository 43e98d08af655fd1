"""Starts that have no forecast of their own since a newer one was made in their place."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from core.archive import Archive, Status
from core.config import ForecastConfig
from core.forecast.forecast import forecast
from core.report import Silent

LATER = (141, 142, 143)


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def superseded(self) -> list[str]:
        return [line for line in self.messages if "superseded" in line]


@pytest.fixture
def archive(chain, tmp_path) -> Archive:
    """Its newest frame is of 22:00; three more come later."""
    url = str(tmp_path / "archive.zarr")
    shutil.copytree(chain.archive, url)
    archive = Archive.open(url, "r+")
    for slot in LATER:
        archive.set_status(slot, archive.channels, Status.ABSENT)
    return archive


@pytest.fixture
def config(chain, archive, tmp_path) -> ForecastConfig:
    return ForecastConfig(
        archive=archive.url, run=chain.run, output=str(tmp_path / "out"), animation=False, members=2, support_windows=0
    )  # fmt: skip


def come(archive: Archive, slots: Iterable[int]) -> None:
    for slot in slots:
        archive.set_status(slot, archive.channels, Status.COMPLETE)


def test_a_start_that_a_newer_one_overtook_is_named(config, archive):
    told = Told()
    forecast(config, report=told)
    come(archive, LATER)
    assert not told.superseded
    forecast(config, report=told)
    assert told.superseded == ["superseded by 20240603T2330Z: 20240603T2230Z, 20240603T2300Z"]
    assert len(json.loads((Path(config.output) / "superseded.json").read_text())) == 2


def test_a_start_that_late_frames_completed_is_named_once_though_nothing_new_is_forecast(config, archive):
    told = Told()
    forecast(config, report=told)
    come(archive, LATER[1:])
    forecast(config, report=told)
    assert not told.superseded
    come(archive, LATER[:1])
    for _ in range(2):
        assert forecast(config, report=told).skipped
    assert told.superseded == ["superseded by 20240603T2330Z: 20240603T2230Z, 20240603T2300Z"]
    assert json.loads((Path(config.output) / "superseded.json").read_text()) == {
        "20240603T2230Z": "20240603T2330Z",
        "20240603T2300Z": "20240603T2330Z",
    }


def test_a_forecast_that_was_asked_for_supersedes_nothing_and_nothing_is_missing_after_it(config, archive):
    told = Told()
    asked = {hour: config.model_copy(update={"init_time": f"2024-06-03T{hour}:00Z"}) for hour in (12, 23)}
    forecast(asked[12], report=told)
    forecast(config, report=told)
    come(archive, LATER)
    forecast(asked[23], report=told)
    assert not told.superseded
    forecast(config, report=told)
    assert told.superseded == ["superseded by 20240603T2330Z: 20240603T2230Z"], "23:00 has a forecast, if by hand"
