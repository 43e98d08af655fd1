"""Pixels that no input frame has: beyond the disk, or not scanned. Nothing is known of them, and nothing is said."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from core.archive import Archive
from core.config import ForecastConfig, Threshold
from core.forecast.animation import PANEL_PIXELS
from core.forecast.forecast import forecast
from core.forecast.verification import verify_forecasts
from core.satellite.granule import Frame

GROUND = (217, 160, 160)  # of what is missing
STRIP = slice(40, None)  # columns of 64


def rewrite(archive: str, strip: float) -> None:
    """The strip of the two frames up to the start."""
    written = Archive.open(archive, "r+")
    start = written.slot(np.datetime64("2024-06-02T06:00", "s"))
    for slot in (start - 1, start):
        kind, time = "brightness_temperature", written.times[slot]
        values = written.read(kind, [slot])[0, 0]
        values[:, STRIP] = strip
        frame = Frame(channel="ir", kind=kind, time=time, observation_time=time, values=values, grid=written.grid)
        written.record(written.write_frame(slot, frame))


@pytest.fixture
def config(chain, tmp_path) -> ForecastConfig:
    """An archive whose two frames up to the start lack a strip, and whose older and later ones have it."""
    archive = str(tmp_path / "archive.zarr")
    shutil.copytree(chain.archive, archive)
    rewrite(archive, np.nan)
    return ForecastConfig(
        archive=archive, run=chain.run, output=str(tmp_path / "out"), init_time="2024-06-02T06:00", members=3,
        support_windows=1, support_tiles=1, netcdf=True, thresholds=[Threshold(name="cold", value=255.0)],
    )  # fmt: skip


def test_what_no_input_frame_has_is_missing_in_every_field_of_both_files(config):
    made = forecast(config)
    with xr.open_zarr(made.url, consolidated=False) as zarr, xr.open_dataset(made.url.replace(".zarr", ".nc")) as nc:
        for stored in (zarr, nc):
            for name in ("members", "mean", "spread", "probability"):
                missing = stored[name].isnull()
                assert missing.isel(x=STRIP).all(), name
                assert not missing.isel(x=slice(0, 40)).any(), name
        xr.testing.assert_allclose(zarr["members"].drop_vars("crs"), nc["members"].drop_vars("crs"))


def test_it_is_drawn_as_missing(config):
    made = forecast(config)
    with Image.open(made.animation) as film:
        for frame in range(film.n_frames):
            film.seek(frame)
            page = np.asarray(film.convert("RGB"), int)
            for panel in range(3):
                left, middle = panel * (page.shape[1] + 4) // 3, page.shape[0] // 2
                strip = page[middle, left + 52 * PANEL_PIXELS // 64]
                np.testing.assert_allclose(strip, GROUND, atol=16, err_msg=f"frame {frame}, panel {panel}")
                assert np.abs(page[middle, left + 20 * PANEL_PIXELS // 64] - GROUND).max() > 16
    with Image.open(made.picture) as picture:
        page = np.asarray(picture.convert("RGB"))
    ground = (page == GROUND).all(-1)
    assert 0.1 < ground.mean() < 0.4


@pytest.mark.parametrize("completed", [False, True])
def test_it_is_scored_where_it_says_something(config, completed):
    """Late parts may have completed the start since, and then only the forecast lacks the strip."""
    made = forecast(config)
    if completed:
        rewrite(config.archive, 250.0)
    found = verify_forecasts(config)
    assert (found.scored, found.lead_times) == (1, 2)
    assert all(np.isfinite(row["crps"]) for row in found.rolling["rows"])
    assert Path(made.url).exists()
