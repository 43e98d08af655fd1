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


def edited(content, change):
    """A file after `change` was made to it."""
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as opened:
        change(opened)
    return file.getvalue()


def projected(content, mapping):
    def change(file):
        attributes = file["mercator"].attrs
        for name in list(attributes):
            del attributes[name]
        attributes.update(mapping)

    return edited(content, change)


def test_a_cone_keeps_both_its_parallels(tmp_path):
    image, _ = read(projected(makers.cf(counts(), TIME, x0=-3e5, y0=2e6), LAMBERT))
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


@pytest.mark.parametrize("south_first", [False, True])
def test_packed_coordinates_are_unpacked(south_first):
    """With a negative scale the numbers of y rise where y itself falls: the image stays as it is."""

    def pack(file):
        for name in ("x", "y"):
            metres = file[name][:]
            del file[name]
            file[name] = np.arange(len(metres), dtype=np.int16) - 2
            step = metres[1] - metres[0]
            file[name].attrs.update(units="m", scale_factor=step, add_offset=metres[0] + 2 * step)

    values = counts()
    plain = makers.cf(values, TIME, south_first=south_first)
    expected, _ = read(plain)
    image, pixels = read(edited(plain, pack))
    np.testing.assert_allclose(image.grid.x, expected.grid.x)
    np.testing.assert_allclose(image.grid.y, expected.grid.y)
    np.testing.assert_array_equal(pixels.values, values)


def test_a_square_image_of_columns_and_rows_is_refused():
    """Its shape alone would not tell; one whose dimensions are tied to no coordinate is (y, x)."""
    values = counts((6, 6))

    def replace(order):
        def change(file):
            attributes = {name: file["infrared"].attrs[name] for name in ("units", "grid_mapping")}
            del file["infrared"]
            file["infrared"] = values.T if order == "xy" else values
            file["infrared"].attrs.update(attributes)
            for dimension, coordinate in enumerate(order):
                file["infrared"].dims[dimension].attach_scale(file[coordinate])

        return edited(makers.cf(values, TIME), change)

    for order in ("yx", ""):
        np.testing.assert_array_equal(read(replace(order))[1].values, values)
    with pytest.raises(CorruptGranule, match=r"\[\['x'\], \['y'\]\]") as caught:
        read(replace("xy"))
    assert caught.value.reason is Reason.WRONG_SHAPE


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


@pytest.mark.parametrize(
    "units",
    [
        "seconds since 1970-1-1", "second since 1970-01-01", "s since 1970-01-01", "Seconds since 1970-01-01 UTC",
        "seconds since 1970-01-01 00:00:0.0", "seconds since 1970-01-01 0:00", "seconds since 1970-01-01T00:00:00.000Z",
        "seconds since  1970-01-01 00:00:00 +00:00", "secs since 1970-01-01 09:00 +9:00",
        "s since 1969-12-31 20:30 -0330",
    ],
)  # fmt: skip
def test_units_of_time_may_be_spelled_in_many_ways(units):
    image, _ = read(edited(makers.cf(counts(), TIME), lambda file: file["time"].attrs.update(units=units)))
    assert image.observation_time == np.datetime64(TIME)


def test_times_may_be_fractions_of_a_day():
    days = (np.datetime64("2017-09-05T00:20", "s") - np.datetime64("2000-01-01", "s")) / np.timedelta64(1, "D")

    def change(file):
        del file["time"]
        file["time"] = [days]
        file["time"].attrs["units"] = "days since 2000-01-01"

    image, _ = read(edited(makers.cf(counts(), TIME), change))
    assert image.observation_time == np.datetime64("2017-09-05T00:20:00")


@pytest.mark.parametrize(
    "units",
    [
        "", "seconds", "months since 1970-01-01", "seconds since", "seconds since 1970-13-01", "s since 0-1-1",
        "seconds since 1970-01-01 " + " " * 20_000 + "x" * 30_000,
        "s since 1970-01-01 0:0:0." + "0" * 60_000, "s" * 60_000,
    ],
)  # fmt: skip
def test_units_that_are_none_of_time_are_refused_at_once(units):
    with pytest.raises(CorruptGranule) as caught:
        read(edited(makers.cf(counts(), TIME), lambda file: file["time"].attrs.update(units=units)))
    assert caught.value.reason is Reason.BAD_ATTRIBUTE


@pytest.mark.parametrize("minutes", [-5, 5])
def test_the_file_of_the_next_slot_is_not_taken_for_this_one(minutes):
    other = str(np.datetime64(TIME) + np.timedelta64(minutes, "m"))
    read(makers.cf(counts(), other))
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(counts(), other), cadence_minutes=5)
    assert caught.value.reason is Reason.WRONG_TIME


def test_a_file_of_several_channels_is_fetched_once_and_not_kept_beyond_the_next(tmp_path, monkeypatch):
    for hour, seed in ((0, 1), (1, 2)):
        content = io.BytesIO(makers.cf(counts() + np.uint8(seed), f"2017-09-05T{hour:02d}:15:00"))
        with h5py.File(content, "r+") as file:
            file.copy("infrared", "other")
        (tmp_path / f"goes13_ir_20170905T{hour:02d}15Z.nc").write_bytes(content.getvalue())
    settings = config(source=str(tmp_path), channels=["infrared", "other"])
    granules = sorted(source.list_granules(settings), key=lambda one: one.time)
    grid, real, fetched = source.archive_grid(granules, settings), source.fetch, []
    monkeypatch.setattr(source, "fetch", lambda one, config: fetched.append(one.url) or real(one, config))
    held: dict[str, bytes] = {}
    frames = [source.read_frame(granule, settings, grid, held) for granule in granules]
    assert [len(fetched), list(held)] == [2, [granules[-1].url]]
    assert np.array_equal(frames[0].values, frames[1].values)
    assert not np.array_equal(frames[1].values, frames[2].values)


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
