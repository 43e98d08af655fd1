import io
from pathlib import Path

import h5py
import numpy as np
import pyproj
import pytest
from pydantic import ValidationError

from core.archive import Archive
from core.config import IngestConfig
from core.satellite import area, cf, hdf5, source
from core.satellite.granule import CorruptGranule, Granule, Grid, Reason
from core.satellite.grid import align, same_grid
from tests.core.satellite import makers

SAMPLE = Path("../shared/data/goes-irma/granules")
TIME = "2017-09-05T00:15:00"


def config(**changes):
    base = {
        "system": "cf",
        "source": str(SAMPLE),
        "pattern": "goes13_ir_%Y%m%dT%H%MZ.nc",
        "channels": ["infrared"],
        "sector": "",
        "times": {"start": "2017-09-04T00:00", "end": "2017-09-12T00:00"},
        "origin": "2017-09-04T00:15",
        "cadence_minutes": 30,
    }
    return IngestConfig.model_validate(base | changes)


def read(content, *, time=TIME, rows=slice(None), columns=slice(None), **changes):
    file = hdf5.opened(content)
    image = cf.open(Granule("memory", "infrared", np.datetime64(time, "s"), 0), [file], config(**changes))
    return image, image.read(rows, columns)


def counts(shape=(6, 9)):
    return np.random.default_rng(3).integers(1, 250, shape, dtype=np.uint8)


def test_counts_pass_through_with_their_mercator_grid():
    values = counts()
    image, pixels = read(makers.cf(values, TIME))
    np.testing.assert_array_equal(pixels.values, values)
    assert image.kind == "display_count"
    assert image.observation_time == np.datetime64(TIME)
    assert image.grid.crs["grid_mapping_name"] == "mercator"
    assert image.grid.crs["longitude_of_projection_origin"] == -90.0
    assert image.grid.y[0] > image.grid.y[-1]


LAMBERT = {
    "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": np.array([30.0, 60.0]),
    "latitude_of_projection_origin": 38.0, "longitude_of_central_meridian": 126.0, "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257223563, "false_easting": 0.0, "false_northing": 0.0,
}  # fmt: skip


def check_lambert(grid):
    """Against pyproj told of both parallels by its own names."""
    theirs = pyproj.Proj(proj="lcc", lat_1=30, lat_2=60, lat_0=38, lon_0=126, ellps="WGS84")
    lon, lat = theirs(*np.meshgrid(grid.x, grid.y), inverse=True)
    ours = area.lonlat(grid)
    np.testing.assert_allclose(ours[0], lon, atol=1e-6)
    np.testing.assert_allclose(ours[1], lat, atol=1e-6)


def lambert(content):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        attributes = opened["mercator"].attrs
        for name in list(attributes):
            del attributes[name]
        for name, value in LAMBERT.items():
            attributes[name] = value
    return file.getvalue()


def test_a_cone_keeps_both_its_parallels(tmp_path):
    image, _ = read(lambert(makers.cf(counts(), TIME, x0=-3e5, y0=2e6)))
    check_lambert(image.grid)
    archive = Archive.create(
        str(tmp_path / "a.zarr"), grid=image.grid, channels={"infrared": "display_count"},
        origin=np.datetime64(TIME), cadence_minutes=30,
    )  # fmt: skip
    there = Archive.open(archive.url).grid
    check_lambert(there)
    assert same_grid(there, image.grid)
    shifted = Grid(there.x[:-1] + 4e3, there.y[:-1] - 4e3, there.crs)
    assert align(image, shifted).values.shape == shifted.shape
    other = Grid(there.x, there.y, image.grid.crs | {"standard_parallel": (30.0, 50.0)})
    assert not same_grid(there, other)


def test_a_file_with_the_south_first_is_turned_over():
    values = counts()
    image, pixels = read(makers.cf(values, TIME, south_first=True))
    np.testing.assert_array_equal(pixels.values, values)
    _, part = read(makers.cf(values, TIME, south_first=True), rows=slice(1, 4), columns=slice(2, 5))
    np.testing.assert_array_equal(part.values, values[1:4, 2:5])
    assert image.grid.y[0] == 4658681.0


def test_packed_temperatures_are_unpacked_with_fill_and_range():
    packed = np.array([[1000, 2000, -1], [-32768, 30000, 1500]], np.int16)
    attributes = {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": np.int16(-32768)}
    content = makers.cf(packed, TIME, units="K", attributes=attributes)
    _, pixels = read(content, kind="brightness_temperature")
    expected = [[283.15, 293.15, 273.14], [np.nan, np.nan, 288.15]]
    np.testing.assert_allclose(pixels.values, expected, atol=2e-5)
    assert (pixels.flagged, pixels.out_of_range) == (1, 1)  # 573 K is no temperature of a cloud


def test_integers_are_unsigned_where_the_file_says_so_and_their_fills_too():
    kelvin = np.array([[350.0, 375.0, 400.0], [260.0, 0, 0]])
    raw = np.rint((kelvin - 250) / 0.0025).clip(0).astype(np.uint16)
    raw[1, 1:] = 65535, 65534
    attributes = {"_Unsigned": "true", "scale_factor": 0.0025, "add_offset": 250.0}
    attributes |= {"_FillValue": np.int16(-1), "missing_value": np.int16(-2)}
    for south_first in (False, True):
        content = makers.cf(raw.view(np.int16), TIME, units="K", attributes=attributes, south_first=south_first)
        _, pixels = read(content, kind="brightness_temperature")
        np.testing.assert_allclose(pixels.values, [kelvin[0], [260, np.nan, np.nan]], rtol=1e-6)
        assert (pixels.flagged, pixels.out_of_range) == (2, 0)
    _, pixels = read(makers.cf(np.array([[-56, 7]], np.int8).repeat(2, 0), TIME, attributes={"_Unsigned": "true"}))
    np.testing.assert_array_equal(pixels.values[0], [200, 7])


def test_floats_may_say_that_nan_is_their_fill_and_integers_may_not():
    """xarray writes it so by default."""
    values = np.array([[250.0, np.nan, 260.0], [270.0, 280.0, -9.0]], np.float32)
    attributes = {"_FillValue": np.float32(np.nan), "missing_value": np.float32(-9)}
    _, pixels = read(makers.cf(values, TIME, units="K", attributes=attributes), kind="brightness_temperature")
    np.testing.assert_array_equal(pixels.values, [[250, np.nan, 260], [270, 280, np.nan]])
    assert (pixels.flagged, pixels.out_of_range) == (2, 0)
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(counts(), TIME, attributes={"_FillValue": np.float32(np.nan)}))
    assert caught.value.reason is Reason.BAD_ATTRIBUTE


def test_reflectance_factors_become_percent():
    content = makers.cf(np.array([[0.25, np.nan], [0.5, 1.0]], np.float32), TIME, units="1")
    _, pixels = read(content, kind="reflectance")
    np.testing.assert_allclose(pixels.values, [[25, np.nan], [50, 100]])


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("goes13_ir_%Y%m%dT%H%MZ.nc", "a/goes13_ir_20170905T0015Z.nc", [("infrared", np.datetime64(TIME))]),
        ("", "goes13_ir_20170905T0015Z.nc", [("infrared", np.datetime64(TIME))]),
        ("goes13_ir_%Y%m%dT%H%MZ.nc", "goes13_ir_20171305T0015Z.nc", []),
        ("goes13_ir_%Y%m%dT%H%MZ.nc", "goes13_ir_20170905T0015Z.nc.part", []),
        ("goes13_ir_%Y%m%dT%H%MZ.nc", "mygoes13_ir_20170905T0015Z.nc", []),
        ("%Y/%m/{channel}/%Y%m%dT%H%M_{channel}.nc", "2017/09/wv/20170905T0015_wv.nc", [("wv", np.datetime64(TIME))]),
        ("%Y/%m/{channel}/%Y%m%dT%H%M_{channel}.nc", "2017/08/wv/20170905T0015_wv.nc", []),
        ("%Y/%m/{channel}/%Y%m%dT%H%M_{channel}.nc", "2017/09/ir/20170905T0015_wv.nc", []),
        ("%Y/%j/{channel}_%H%M%S.nc", "root/2017/248/wv_001500.nc", [("wv", np.datetime64(TIME))]),
    ],
)
def test_keys_are_read_by_the_pattern(pattern, key, expected):
    assert cf.parse(key, config(pattern=pattern)) == expected


def test_folders_of_a_dated_pattern_are_spelled_out():
    times = config(times={"start": "2017-12-31T23:30", "end": "2018-01-01T00:30"}).times
    assert cf.prefixes(config(pattern="%Y/%m/%d/f%H%M.nc"), times) == ["2017/12/31/", "2018/01/01/"]
    hourly = config(pattern="{channel}/%Y%m%d/%H/f%M.nc", channels=["a", "b"])
    assert cf.prefixes(hourly, times) == ["a/20171231/23/", "a/20180101/00/", "b/20171231/23/", "b/20180101/00/"]
    assert cf.prefixes(config(), times) == [""]
    by_minute = config(pattern="%Y/%m/%d/%H%M/{channel}.nc")
    assert cf.prefixes(by_minute, times) == ["2017/12/31/", "2018/01/01/"]
    assert cf.prefixes(config(pattern="%Y%m%d%H%M/f.nc"), times) == [""]


def test_a_pattern_that_cannot_tell_the_time_is_refused():
    for pattern, why in (("frame_%q.nc", "unknown code %q"), ("frame_%Y.nc", "no %Y or no %H")):
        with pytest.raises(ValidationError, match=rf"'{pattern}', which does not tell the time \({why}\)"):
            config(pattern=pattern)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"drop": ("infrared",)}, Reason.MISSING_VARIABLE),
        ({"drop": ("time",)}, Reason.MISSING_VARIABLE),
        ({"drop": ("mercator",)}, Reason.MISSING_VARIABLE),
        ({"drop": ("grid_mapping",)}, Reason.MISSING_ATTRIBUTE),
        ({"time": "2017-09-05T04:15:00"}, Reason.WRONG_TIME),
        ({"mapping": "merCator"}, Reason.BAD_ATTRIBUTE),
        ({"step": 0.0}, Reason.WRONG_GRID),
        ({"x0": np.nan}, Reason.WRONG_GRID),
    ],
)
def test_a_file_that_lies_is_refused_with_its_reason(change, reason):
    arguments = {"time": TIME} | change
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(counts(), **arguments))
    assert caught.value.reason is reason


@pytest.mark.parametrize("minutes", [-5, 5])
def test_the_file_of_the_next_slot_is_not_taken_for_this_one(minutes):
    other = str(np.datetime64(TIME) + np.timedelta64(minutes, "m"))
    read(makers.cf(counts(), other))
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(counts(), other), cadence_minutes=5)
    assert caught.value.reason is Reason.WRONG_TIME


@pytest.mark.skipif(not SAMPLE.exists(), reason="the real frames are not here")
def test_the_real_frames():
    settings = config(block=2)
    granules = source.list_granules(settings)
    assert len(granules) == 310
    page = np.datetime64("2017-09-07T21:15:00")
    grid = source.archive_grid(granules, settings)
    assert grid.shape == (220, 360)
    for granule in [*granules[:3], *granules[-3:]]:
        frame = source.read_frame(granule, settings, grid)
        assert frame.reason is Reason.NONE
        assert frame.observation_time == granule.time
        assert 0 <= frame.values.min() < frame.values.max() <= 255
    (broken,) = (g for g in granules if g.time == page)
    with pytest.raises(CorruptGranule, match="HTML") as caught:
        source.read_frame(broken, settings, grid)
    assert caught.value.reason is Reason.NOT_HDF5
