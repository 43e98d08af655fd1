"""What a nowcast puts on its run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import ForecastConfig, TrackingConfig
from core.forecast.forecast import Forecast
from tasks import forecast as tasks


@pytest.mark.parametrize(("skipped", "pictures"), [(False, ["nowcast-picture"]), (True, [])])
def test_pictures_are_on_the_run_that_made_them_alone(
    skipped: bool, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most runs of a schedule find the newest forecast there, and its pictures would fill the server's database."""
    picture, published = tmp_path / "latest.png", []
    picture.touch()
    made = Forecast("x.zarr", str(picture), "", np.datetime64("2024-06-03T12:00", "s"), (), skipped=skipped)

    def publish_file(key: str, *_: Any) -> None:
        published.append(key)

    monkeypatch.setattr(tasks, "forecast_area", lambda *_, **__: made)
    monkeypatch.setattr(tasks, "publish", lambda *_, **__: None)
    monkeypatch.setattr(tasks, "publish_file", publish_file)
    assert tasks.forecast.fn(ForecastConfig(run="run"), TrackingConfig()) is made
    assert published == pictures
