import shutil

import numpy as np
import pytest
import xarray as xr

from core.errors import FewcastError
from core.satellite import source
from core.satellite.granule import CorruptGranule, Reason
from tests.core.satellite import test_cf, test_cf_values
from tests.core.satellite.test_source import BUCKET

TIMES = np.array(["2017-09-05T00:15", "2017-09-05T00:45", "2017-09-05T01:00", "2017-09-05T01:15"], "datetime64[ns]")
VALUES = np.random.default_rng(0).uniform(200, 300, (4, 11, 17)).astype(np.float32)


MERCATOR = {"grid_mapping_name": "mercator", "standard_parallel": 0.0, "earth_radius": 6371228.0}


Y, X = 4e6 - 8e3 * np.arange(11), -1e5 + 8e3 * np.arange(17)


def store(path, *, south_first=False, times=4, crs=MERCATOR, at=TIMES, time=None, units="K", y=Y, x=X, **changes):
    values = VALUES.copy()
    values[1, 2, 3], values[3] = np.nan, np.nan
    data = xr.Dataset(
        {
            "bt": (
                ("time", "y", "x"),
                values[:, ::-1] if south_first else values,
                {"units": units, "grid_mapping": "crs"},
            ),
            "crs": ((), 0, crs),
        },
        coords={
            "time": at,
            "y": ("y", y[::-1] if south_first else y, {"units": "m"}),
            "x": ("x", x, {"units": "m"}),
        },
    )
    packing = {"dtype": "uint16", "scale_factor": 0.01, "_FillValue": 65535}
    data.isel(time=slice(times)).to_zarr(path, encoding={"bt": packing, "time": time or {}})
    settings = {"source": str(path), "channels": ["bt"], "kind": "brightness_temperature", "pattern": ""}
    return test_cf.config(**(settings | changes))


@pytest.mark.parametrize("south_first", [False, True])
def test_each_time_of_a_store_is_a_granule(tmp_path, south_first):
    config = store(tmp_path / "frames.zarr", south_first=south_first)
    granules = source.list_granules(config)
    assert [str(g.time)[11:16] for g in granules] == ["00:15", "00:45", "01:15"]  # 01:00 is no slot
    grid = source.archive_grid(granules, config)
    assert grid.shape == (11, 17)
    frame = source.read_frame(granules[0], config, grid)
    np.testing.assert_allclose(frame.values, VALUES[0], atol=0.006)
    assert (frame.kind, frame.reason) == ("brightness_temperature", Reason.NONE)
    gappy = source.read_frame(granules[1], config, grid)
    assert np.isnan(gappy.values[2, 3])
    assert gappy.reason is Reason.BAD_QUALITY
    with pytest.raises(CorruptGranule) as caught:
        source.read_frame(granules[2], config, grid)
    assert caught.value.reason is Reason.BAD_QUALITY


def test_times_in_fractions_of_a_day_are_those_of_the_slots(tmp_path):
    """Decoded, some of them lie a few nanoseconds before their slot."""
    days = {"dtype": "float64", "units": "days since 1970-01-01"}
    at = TIMES[0] + np.arange(5, 25, 5).astype("timedelta64[m]")
    config = store(tmp_path / "frames.zarr", at=at, time=days, cadence_minutes=5)
    assert (xr.open_zarr(config.source)["time"].values < at).any()
    granules = source.list_granules(config)
    assert [g.time for g in granules] == list(at)
    grid = source.archive_grid(granules, config)
    for granule, expected in zip(granules[::2], VALUES[::2], strict=True):
        np.testing.assert_allclose(source.read_frame(granule, config, grid).values, expected, atol=0.006)


def test_times_without_units_are_refused(tmp_path):
    config = store(tmp_path / "frames.zarr")
    bare = xr.open_zarr(config.source, decode_times=False).load()
    del bare["time"].attrs["units"]
    bare.to_zarr(tmp_path / "bare.zarr")
    with pytest.raises(FewcastError, match="mere numbers"):
        source.list_granules(config.model_copy(update={"source": str(tmp_path / "bare.zarr")}))


def test_a_worker_sees_what_has_come_since_it_opened_the_store(tmp_path):
    """The listing that tells of the new time was another process's: this one opened the store when it was shorter."""
    config, grown = store(tmp_path / "frames.zarr", times=1), store(tmp_path / "grown.zarr")
    first = source.list_granules(config)
    grid = source.archive_grid(first, config)
    second = source.list_granules(grown)[1]
    source.read_frame(first[0], config, grid)
    shutil.rmtree(tmp_path / "frames.zarr")
    (tmp_path / "grown.zarr").rename(tmp_path / "frames.zarr")
    assert source.read_frame(second, config, grid).reason is Reason.BAD_QUALITY


def test_a_cone_keeps_both_its_parallels(tmp_path):
    lambert = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in test_cf.LAMBERT.items()
    }
    config = store(tmp_path / "frames.zarr", crs=lambert)
    test_cf.check_lambert(source.archive_grid(source.list_granules(config), config))


def test_the_space_around_a_disk_is_not_missing(tmp_path):
    """All of the second image is seen but one pixel, which here lies in space, and there on the Earth."""
    for middle, reason in ((8e6, Reason.NONE), (0.0, Reason.BAD_QUALITY)):
        x = middle + 1e6 * (np.arange(17) - 3)
        config = store(tmp_path / f"{reason}.zarr", crs=test_cf_values.DISK, x=x, y=1e6 * (2 - np.arange(11.0)))
        granules = source.list_granules(config)
        assert source.read_frame(granules[1], config, source.archive_grid(granules, config)).reason is reason


def test_blocks_and_windows(tmp_path):
    config = store(tmp_path / "frames.zarr", block=3)
    granules = source.list_granules(config)
    grid = source.archive_grid(granules, config)
    assert grid.shape == (3, 5)
    expected = VALUES[0, :9, :15].reshape(3, 3, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(source.read_frame(granules[0], config, grid).values, expected, atol=0.006)


def test_a_store_behind_s3(tmp_path, s3):
    endpoint, client = s3
    config = store(tmp_path / "frames.zarr")
    for path in sorted((tmp_path / "frames.zarr").rglob("*")):
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=str(path.relative_to(tmp_path)), Body=path.read_bytes())
    there = config.model_copy(
        update={"source": f"s3://{BUCKET}/frames.zarr", "endpoint_url": endpoint, "anonymous": False}
    )
    granules = source.list_granules(there)
    frame = source.read_frame(granules[0], there, source.archive_grid(granules, there))
    np.testing.assert_allclose(frame.values, VALUES[0], atol=0.006)
    with pytest.raises(FewcastError, match="does not exist"):
        source.list_granules(there.model_copy(update={"source": f"s3://{BUCKET}/none.zarr"}))


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_store_in_a_public_bucket_is_not_looked_for_at_our_own_endpoint(anonymous, monkeypatch):
    told = {}

    def nothing(url, **options):
        told.update(options["storage_options"])
        raise FileNotFoundError(url)

    monkeypatch.setattr(xr, "open_zarr", nothing)
    with pytest.raises(FewcastError, match="does not exist"):
        source.list_granules(test_cf.config(source="s3://public/frames.zarr", anonymous=anonymous))
    assert told["anon"] is anonymous
    assert told["config_kwargs"]["ignore_configured_endpoint_urls"] is anonymous


def test_a_store_without_the_variable_or_that_is_not_there(tmp_path):
    config = store(tmp_path / "frames.zarr", channels=["wv"])
    with pytest.raises(FewcastError, match="no wv among"):
        source.list_granules(config)
    with pytest.raises(FewcastError, match="does not exist"):
        source.list_granules(config.model_copy(update={"source": str(tmp_path / "none.zarr")}))


def test_values_out_of_range_or_in_foreign_units_are_told(tmp_path):
    config = store(tmp_path / "frames.zarr", kind="reflectance")
    granules = source.list_granules(config)
    grid = source.archive_grid(granules, config.model_copy(update={"kind": "display_count"}))
    with pytest.raises(CorruptGranule) as caught:
        source.read_frame(granules[0], config, grid)
    assert caught.value.reason is Reason.BAD_ATTRIBUTE
    config = store(tmp_path / "percent.zarr", kind="reflectance", units="%")
    with pytest.raises(CorruptGranule) as caught:
        source.read_frame(source.list_granules(config)[0], config, grid)
    assert caught.value.reason is Reason.OUT_OF_RANGE
