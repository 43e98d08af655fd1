"""What a stage did, as a person reads it."""

from typing import Any

import numpy as np
import pytest

from core.forecast.forecast import Forecast
from tasks import summary


def test_the_table_of_a_nowcast_has_its_moments_to_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def create(markdown: str, **_: Any) -> None:
        made.append(markdown)

    monkeypatch.setattr(summary, "create_markdown_artifact", create)
    start = np.datetime64("2024-06-03T22:00:00", "ns")
    windows = (start - np.timedelta64(30, "m"), start - np.timedelta64(20, "m"))
    summary.publish("nowcast", Forecast("x.zarr", "x.png", "", start, windows, seconds={"members": 1.25}), model="a")
    summary.publish("nowcast", Forecast("x.zarr", "x.png", "", start, ()))
    assert "| init time | 2024-06-03 22:00 UTC |" in made[0]
    assert "| support init times | 2024-06-03 21:30 UTC, 2024-06-03 21:40 UTC |" in made[0]
    assert "| seconds | members 1.25 |" in made[0]
    assert "| support init times | none |" in made[1]
