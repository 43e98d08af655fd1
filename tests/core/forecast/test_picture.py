"""What the picture of a nowcast says in words."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

from core.config import ForecastConfig
from core.forecast.forecast import forecast
from core.forecast.newest import Newest
from core.forecast.picture import forecast_picture
from core.model import Model
from core.satellite.area import lonlat

SKILL = {
    "hours": 24.0,
    "forecasts": 5,
    "last": "2024-06-03T12:00",
    "channels": ["ir"],
    "rows": [{"channel": "ir", "lead_minutes": 30, "skill": 0.44, "coverage90": 0.87}],
}


@pytest.fixture(scope="module")
def made(chain, tmp_path_factory) -> tuple[xr.Dataset, Newest, int]:
    """The dataset, the view and the slot that a picture is drawn from."""
    config = ForecastConfig(
        archive=chain.archive, run=chain.run, output=str(tmp_path_factory.mktemp("out")), members=2, support_windows=0,
        animation=False,
    )  # fmt: skip
    dataset = xr.open_zarr(forecast(config).url, consolidated=False, mask_and_scale=False)
    view = Newest.open(config, Model.load(chain.run))
    return dataset, view, view.init_slot()


def words(made: tuple[xr.Dataset, Newest, int], skill: dict[str, object] | None = None) -> list[str]:
    return [text.get_text() for text in forecast_picture(*made, skill).findobj(Text)]


def test_scores_are_said_with_the_start_that_they_reach_to(made):
    """Else those of a week ago pass for the last day's where nothing has verified since."""
    assert (
        "24 h up to 06-03 12:00 UTC, 5 forecasts verified: at +30 min 44 % better than persistence; "
        "the 90 % interval held 87 %"
    ) in words(made, SKILL)
    still = SKILL | {"rows": [SKILL["rows"][0] | {"skill": None}]}
    assert any(
        line.startswith("24 h up to 06-03 12:00 UTC, 5 forecasts verified; against") for line in words(made, still)
    )
    assert "no forecast of this folder is verified yet" in words(made)


@pytest.mark.parametrize(("turn", "expected"), [(0, "128.5°E"), (-189, "60.5°W"), (51.5, "179.5°W")])
def test_south_and_west_are_named_and_the_date_line_is_no_end(made, monkeypatch, turn, expected):
    def turned(grid) -> list[np.ndarray]:
        lon, lat = lonlat(grid)
        return [(lon + turn + 180) % 360 - 180, lat]

    monkeypatch.setattr("core.forecast.picture.lonlat", turned)
    found = words(made)
    assert {expected, "0.5°S"} <= {*found}, found
    assert not [word for word in found if word.startswith(("-", "\N{MINUS SIGN}")) and "°" in word]
