"""The pixels of CF files: packed and plain, their units, and what of them is no datum."""

import numpy as np
import pytest

from core.satellite import area
from core.satellite.granule import CorruptGranule, Grid, Reason
from core.satellite.grid import align
from tests.core.satellite import makers
from tests.core.satellite.test_cf import TIME, counts, edited, projected, read


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


@pytest.mark.parametrize(
    "storage",
    [
        {},
        {"chunks": (1, 4, 5), "compression": "gzip"},
        {"chunks": (3, 4, 5), "maxshape": (None, 6, 9), "compression": "gzip"},
    ],
)
def test_dimensions_of_a_single_element_before_the_image_are_dropped(storage):
    """Contiguous, in chunks that are read here, and in chunks that only the library reads."""
    values = counts()

    def change(file):
        attributes = {name: file["infrared"].attrs[name] for name in ("units", "grid_mapping")}
        del file["infrared"]
        image = file.create_dataset("infrared", data=values[None], **storage)
        image.attrs.update(attributes)
        for dimension, coordinate in ((1, "y"), (2, "x")):
            image.dims[dimension].attach_scale(file[coordinate])

    content = edited(makers.cf(values, TIME), change)
    np.testing.assert_array_equal(read(content)[1].values, values)
    np.testing.assert_array_equal(read(content, rows=slice(3, 6), columns=slice(2, 8))[1].values, values[3:6, 2:8])

    def twice(file):
        file.move("infrared", "one")
        file["infrared"] = np.stack([values, values])
        file["infrared"].attrs.update(units="1", grid_mapping="mercator")

    with pytest.raises(CorruptGranule) as caught:
        read(edited(content, twice))
    assert caught.value.reason is Reason.WRONG_SHAPE


INT = np.int16


@pytest.mark.parametrize(
    "limits",
    [
        {"valid_range": np.array([1500, 2500], INT)},
        {"valid_min": INT(1500), "valid_max": INT(2500)},
        {"valid_range": np.array([265.0, 275.0])},
    ],
)
def test_what_is_outside_the_valid_range_is_missing(limits):
    """In packed integers; limits in floating point are in kelvin."""
    packed = np.array([[1499, 1500, 2000], [2500, 2501, -32768]], INT)
    attributes = {"scale_factor": 0.01, "add_offset": 250.0, "_FillValue": INT(-32768)} | limits
    _, pixels = read(makers.cf(packed, TIME, units="K", attributes=attributes), kind="brightness_temperature")
    np.testing.assert_allclose(pixels.values, [[np.nan, 265, 270], [275, np.nan, np.nan]])
    assert (pixels.flagged, pixels.out_of_range) == (3, 0)


def test_limits_are_unsigned_where_the_integers_are():
    raw = np.array([[10, 40_000, 65_000], [65_534, 9, 300]], np.uint16).view(INT)
    attributes = {"_Unsigned": "true", "valid_range": np.array([10, -2], INT)}
    _, pixels = read(makers.cf(raw, TIME, attributes=attributes))
    np.testing.assert_array_equal(pixels.values, [[10, 40_000, 65_000], [65_534, np.nan, 300]])
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(raw, TIME, attributes={"valid_range": INT(7)}))
    assert caught.value.reason is Reason.BAD_ATTRIBUTE


@pytest.mark.parametrize(("units", "factor"), [("1", 100), ("", 100), ("%", 1), ("percent", 1)])
def test_reflectance_becomes_percent(units, factor):
    values = np.array([[0.25, np.nan], [0.5, 1.0]], np.float32)
    _, pixels = read(makers.cf(values, TIME, units=units), kind="reflectance")
    np.testing.assert_allclose(pixels.values, factor * values)


@pytest.mark.parametrize(
    ("kind", "units"),
    [
        *(("reflectance", units) for units in ("fraction", "W m-2 sr-1 um-1", "K", "count")),
        *(("brightness_temperature", units) for units in ("", "1", "degC", "celsius")),
    ],
)
def test_values_in_foreign_units_are_refused(kind, units):
    with pytest.raises(CorruptGranule) as caught:
        read(makers.cf(np.full((6, 9), 0.4, np.float32), TIME, units=units), kind=kind)
    assert caught.value.reason is Reason.BAD_ATTRIBUTE


# A whole disk in 40 by 40 pixels; the ellipsoid is told by other parameters than in the granules of an agency.
DISK = {
    "grid_mapping_name": "geostationary", "perspective_point_height": 35785831.0, "sweep_angle_axis": "y",
    "longitude_of_projection_origin": 0.0, "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
}  # fmt: skip
DISK_AXIS = 2.85e5 * (np.arange(40) - 19.5)


@pytest.mark.parametrize("south_first", [False, True])
def test_the_space_around_a_disk_is_not_missing(south_first):
    seen = np.isfinite(area.lonlat(Grid(DISK_AXIS, -DISK_AXIS, DISK))[0])
    assert 0.5 < seen.mean() < 0.8
    kelvin = np.where(seen, 250, np.nan).astype(np.float32)
    for gaps in (0, 2):
        kelvin[20, 18 : 18 + gaps] = np.nan
        plain = makers.cf(
            kelvin, TIME, units="K", x0=DISK_AXIS[0], y0=-DISK_AXIS[0], step=2.85e5, south_first=south_first
        )
        image, pixels = read(projected(plain, DISK), kind="brightness_temperature")
        np.testing.assert_array_equal(np.isfinite(pixels.values), np.isfinite(kelvin))
        assert pixels.flagged == gaps
        assert align(image, image.grid).reason is (Reason.BAD_QUALITY if gaps else Reason.NONE)
