import errno
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from core.archive import Archive, Status
from core.config import ForecastConfig, Threshold
from core.errors import FewcastError
from core.forecast.folder import Folder
from core.forecast.forecast import forecast
from core.forecast.newest import Newest
from core.model import Model
from core.report import Silent
from core.satellite.area import lonlat
from core.satellite.granule import Frame


class Told(Silent):
    """Remembers messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def config(chain, tmp_path) -> ForecastConfig:
    return ForecastConfig(
        archive=chain.archive,
        run=chain.run,
        output=str(tmp_path / "forecasts"),
        members=3,
        support_windows=2,
        support_tiles=2,
        thresholds=[Threshold(name="cold", value=255.0), Threshold(name="warm", value=265.0, above=True)],
        netcdf=True,
    )


def test_forecast_is_cf_zarr_in_physical_units(config):
    made = forecast(config)
    with xr.open_zarr(made.url, consolidated=False) as zarr, xr.open_dataset(made.url.replace(".zarr", ".nc")) as nc:
        assert zarr["members"].dims == ("member", "lead_time", "channel", "y", "x")
        assert zarr.sizes == {"member": 3, "lead_time": 2, "channel": 1, "y": 48, "x": 64, "event": 2}
        unseen = np.isnan(Archive.open(config.archive).read("brightness_temperature", [142, 143])[:, 0]).all(0)
        assert all((zarr[name].isnull() == unseen).all() for name in zarr.data_vars)
        assert 230 < float(zarr["mean"].min()) < float(zarr["mean"].max()) < 290
        assert zarr["mean"].attrs["units"] == "K"
        assert zarr["mean"].encoding.get("grid_mapping", zarr["mean"].attrs.get("grid_mapping")) == "crs"
        assert zarr["init_time"].values == made.init_time == np.datetime64("2024-06-03T23:30")
        np.testing.assert_array_equal(zarr["valid_time"], zarr["init_time"] + zarr["lead_time"])
        assert zarr.attrs["support_init_times"] == "2024-06-03T22:00, 2024-06-03T22:30"
        for probability in (zarr["probability"].sel(event="cold"), zarr["probability"].sel(event="warm")):
            assert 0 <= float(probability.min()) < float(probability.max()) <= 1
        cold = zarr["probability"].sel(event="cold")
        assert float(cold.where(zarr["mean"].isel(channel=0) < 250).mean()) > 0.5
        xr.testing.assert_allclose(zarr["members"].drop_vars("crs"), nc["members"].drop_vars("crs"))
    assert Path(made.picture).stat().st_size > 10_000


def test_the_same_forecast_is_made_once_and_the_same(config):
    first = forecast(config)
    assert forecast(config).skipped
    with xr.open_zarr(first.url, consolidated=False) as stored:
        before = stored["members"].values
    other = forecast(config.model_copy(update={"output": config.output + "2"}))
    with xr.open_zarr(other.url, consolidated=False) as again:
        np.testing.assert_array_equal(before, again["members"].values)


def test_a_forecast_is_made_again_once_a_frame_of_it_is_written_again(config, chain, tmp_path):
    """Frames may be partial, and be completed later: those of the inputs, and those of the support windows."""
    archive = str(tmp_path / "archive.zarr")
    shutil.copytree(chain.archive, archive)
    quick = config.model_copy(
        update={"archive": archive, "netcdf": False, "animation": False, "members": 2, "support_windows": 1}
    )
    forecast(quick)
    written = Archive.open(archive, "r+")
    for slot in (143, 140):  # an input, and a frame of the support window alone
        grid, time = written.grid, written.times[slot]
        values = np.full(written.shape, 250.0, np.float32)
        written.record(written.write_frame(slot, Frame(channel="ir", kind="brightness_temperature", time=time,
                                                       observation_time=time, values=values, grid=grid)))  # fmt: skip
        assert not forecast(quick).skipped
        assert forecast(quick).skipped


@pytest.mark.parametrize("stage", ["forecast_picture", "animate", "write_store"])
def test_a_full_disk_is_one_line_and_a_lost_network_is_not_taken_for_it(config, monkeypatch, stage):
    quick = config.model_copy(update={"netcdf": False, "members": 2, "support_windows": 0})
    for error, wanted in ((OSError(errno.ENOSPC, "No space left on device"), FewcastError), (TimeoutError(), OSError)):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(f"core.forecast.forecast.{stage}", fail)
        with pytest.raises(wanted) as told:
            forecast(quick)
        assert ("No space left on device; free some space" in str(told.value)) == (wanted is FewcastError)
        assert Folder(config.output).forecasts() == [], "it is there once its pictures are"


def test_latest_is_a_link_to_the_newest_even_when_an_older_one_is_made_after_it(config):
    newest = forecast(config)
    older = forecast(config.model_copy(update={"init_time": "2024-06-03T12:00Z"}))
    assert older.url < newest.url
    for suffix in (".zarr", ".png", ".gif", ".nc"):
        link = Path(config.output) / f"latest{suffix}"
        assert link.resolve() == Path(newest.url).with_suffix(suffix).resolve()
        assert link.exists()
    with xr.open_zarr(Path(config.output) / "latest.zarr", consolidated=False) as zarr:
        assert zarr["init_time"].values == newest.init_time


def test_old_forecasts_go_and_what_a_kill_left_is_cleared_away(config):
    quick = config.model_copy(update={"netcdf": False, "animation": False, "members": 2, "support_windows": 0})
    for hour in ("03T00", "03T12"):
        forecast(quick.model_copy(update={"init_time": f"2024-06-{hour}:00Z"}))
    left = Path(config.output) / ".forecast_20240603T0000Z.zarr.1.partial"
    left.mkdir()
    os.utime(left, (0, 0))
    forecast(quick.model_copy(update={"keep_days": 0.6}))
    names = sorted(path.name for path in Path(config.output).glob("forecast_*"))
    assert names == [f"forecast_20240603T{hour}Z.{kind}" for hour in ("1200", "2330") for kind in ("png", "zarr")]
    assert not left.exists()


def test_a_forecast_without_its_picture_is_made_again(config):
    made = forecast(config)
    Path(made.picture).unlink()
    assert not forecast(config).skipped
    assert Path(made.picture).exists()


def test_frames_that_are_too_old_are_refused_and_holes_are_told(config, chain, tmp_path):
    live = config.model_copy(update={"max_age_minutes": 60})
    with pytest.raises(FewcastError, match=r"is stale: found 91 minutes since 2024-06-03T23:30, .* 60 are allowed"):
        forecast(live, clock=lambda: datetime(2024, 6, 4, 1, 1, tzinfo=UTC))
    assert forecast(live, clock=lambda: datetime(2024, 6, 4, 0, 1, tzinfo=UTC)).init_time
    asked = live.model_copy(update={"init_time": "2024-06-03T12:00:00Z", "keep_days": 0.2})
    assert Path(forecast(asked).url).exists(), "a start that is asked for may be of any age"

    holed = str(tmp_path / "holed.zarr")
    shutil.copytree(chain.archive, holed)
    archive = Archive.open(holed, "r+")
    archive.set_status(142, archive.channels, Status.ABSENT)
    told = Told()
    made = forecast(config.model_copy(update={"archive": holed, "output": holed + "-out"}), report=told)
    assert made.init_time == np.datetime64("2024-06-03T22:30")
    assert "holes: starting from 2024-06-03T22:30 and not from 2024-06-03T23:30" in " ".join(told.messages)


def test_a_region_in_degrees_is_the_same_as_its_rows_and_columns(config, chain):
    grid = Archive.open(chain.archive).grid
    lon, lat = lonlat(grid)
    region = f"{lon[20, 10]:.5f},{lat[40, 10]:.5f},{lon[20, 50]:.5f},{lat[20, 10]:.5f}"
    quick = config.model_copy(update={"region": region, "netcdf": False, "support_windows": 0})
    with xr.open_zarr(forecast(quick).url, consolidated=False) as zarr:
        np.testing.assert_allclose(zarr["x"].values[[0, -1]], grid.x[[10, 50]], atol=2001)
        np.testing.assert_allclose(zarr["y"].values[[0, -1]], grid.y[[20, 40]], atol=2001)
    with pytest.raises(FewcastError, match="cannot be seen"):
        forecast(quick.model_copy(update={"region": "0,0,1,1"}))


def test_the_animation_has_a_frame_for_each_input_and_each_lead_time(config):
    with Image.open(forecast(config).animation) as picture:
        assert picture.n_frames == 2 + 2
        assert picture.width > 3 * picture.height > 300


def test_members_have_the_mean_and_the_spread_of_the_distribution(config):
    """Drawn members scatter about the mean as the mixture says; 16-bit codes keep them to 0.01 K."""
    many = config.model_copy(update={"members": 40, "netcdf": False})
    with xr.open_zarr(forecast(many).url, consolidated=False) as zarr:
        members, spread = zarr["members"], zarr["spread"]
        assert float(abs(members.mean("member") - zarr["mean"]).mean() / spread.mean()) < 2.5 / np.sqrt(40)
        variance = members.var("member", skipna=False).mean()
        assert float((variance / (spread**2).mean()) ** 0.5) == pytest.approx(1, rel=0.1)
        assert members.encoding["scale_factor"] == 0.01
        assert members.encoding["dtype"] == np.int16


def test_an_area_is_cut_from_the_archive_and_gaps_are_not_started_from(config):
    part = config.model_copy(update={"y0": 5, "x0": 8, "height": 20, "width": 30, "init_time": "2024-06-01T20:00Z"})
    made = forecast(part)
    with xr.open_zarr(made.url, consolidated=False) as zarr:
        np.testing.assert_array_equal(zarr["y"], -np.arange(5, 25) * 2000.0)
        np.testing.assert_array_equal(zarr["x"], np.arange(8, 38) * 2000.0)
    with pytest.raises(FewcastError, match="no frames to start from at 2024-06-01T10:30Z"):  # a slot of the gap
        forecast(part.model_copy(update={"init_time": "2024-06-01T10:30Z"}))


def test_another_area_is_refused_where_it_would_take_the_place_of_the_folder_s_own(config):
    """A region, or rows and columns, given by hand: `latest.*` and the rolling scores are of one area."""
    quick = config.model_copy(update={"netcdf": False, "animation": False, "members": 2, "support_windows": 0})
    made = forecast(quick)
    before = Path(made.picture).read_bytes()
    for init_time in ("", "2024-06-03T12:00Z"):
        part = quick.model_copy(update={"height": 20, "width": 30, "init_time": init_time})
        with pytest.raises(
            FewcastError, match="holds forecasts of another area: found rows 0:48, columns 0:64 in the newest, and"
        ):
            forecast(part)
    assert Path(made.picture).read_bytes() == before
    assert not forecast(part.model_copy(update={"output": config.output + "/part"})).skipped
    attributes = Path(made.url) / "zarr.json"
    attributes.write_text(attributes.read_text().replace('"area": "rows 0:48, columns 0:64"', '"other": ""'))
    assert not forecast(part).skipped, "an earlier version's forecast does not say its area"


def test_support_ends_before_the_forecast_starts(config, chain):
    view = Newest.open(config, Model.load(chain.run))
    archive = Archive.open(chain.archive)
    for init in (40, 90, 143):
        for slot in view.support_slots(init, 4):
            frames = range(slot - 1, slot + 3)
            assert frames[-1] <= init
            assert (archive.status_of(frames) > 0).all()
            assert not {20, 21, 70} & set(frames)


def test_inputs_are_those_of_training(chain, config):
    """A tile cut from the archive equals the tile that the episode store holds."""
    from core.episodes.loader import Loader
    from core.episodes.store import EpisodeStore

    store = EpisodeStore.open(chain.store)
    entry = store.catalog[store.catalog["split"] == "test"].iloc[0]
    batch = Loader(store, split="test").load([int(entry["id"])])
    view = Newest.open(config, Model.load(chain.run))
    slot = view.frames.archive.slot(batch.query.init_time[0, 0])
    found = view.cut(view.inputs(slot), slot, int(entry["y0"]), int(entry["x0"]))
    np.testing.assert_allclose(found, batch.query.x[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y0": 48}, "outside the archive"),
        ({"width": 65}, "outside the archive"),
        ({"init_time": "yesterday"}, "names no slot"),
        ({"init_time": "2024-06-01T20:10Z"}, "names no slot"),
        ({"thresholds": [Threshold(name="x", channel="wv", value=1.0)]}, "channel that the run does not forecast"),
    ],
)
def test_what_cannot_be_forecast_is_one_clear_line(config, change, words):
    with pytest.raises(FewcastError, match=words):
        forecast(config.model_copy(update=change))
    assert not list(Path(config.output).glob("*.zarr")) if Path(config.output).exists() else True


def test_half_precision_changes_a_forecast_by_far_less_than_its_spread(config):
    quick = config.model_copy(update={"netcdf": False, "animation": False, "members": 4})
    with xr.open_zarr(forecast(quick).url, consolidated=False) as stored:
        exact = stored[["mean", "spread"]].load()
    half = quick.model_copy(update={"precision": "bf16", "output": config.output + "-half"})
    with xr.open_zarr(forecast(half).url, consolidated=False) as stored:
        error = float(((stored["mean"] - exact["mean"]) ** 2).mean()) ** 0.5
        assert 0 < error < 0.02 * float(exact["spread"].mean())
        np.testing.assert_allclose(stored["spread"], exact["spread"], rtol=0.02)


def test_all_tiles_share_each_weight_sample_however_they_are_grouped(config, monkeypatch):
    """Drawn anew for each group of tiles, the weights must be the same ones, or members would change between tiles."""
    quick = config.model_copy(update={"netcdf": False, "animation": False, "members": 3, "support_windows": 0})
    with xr.open_zarr(forecast(quick).url, consolidated=False) as stored:
        together = stored["members"].load()
    monkeypatch.setattr("core.forecast.forecast.TILES_A_CALL", {"cpu": 3})
    apart = quick.model_copy(update={"output": config.output + "-apart"})
    with xr.open_zarr(forecast(apart).url, consolidated=False) as stored:
        np.testing.assert_allclose(stored["members"], together, atol=0.011)
