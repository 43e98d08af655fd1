import h5py
import numpy as np
import pytest

from core.config import IngestConfig
from core.satellite import area, gk2a, hdf5
from core.satellite.granule import CorruptGranule, Granule, Image, Reason
from core.satellite.grid import align
from tests.core.satellite import makers

TIME = "202309051230"
ALL = (slice(None), slice(None))


def config(**changes):
    base = {
        "source": "unused",
        "channels": ["ir105"],
        "times": {"start": "2023-09-05T12:00", "end": "2023-09-05T13:00"},
        "origin": "2023-09-05T00:00",
    }
    return IngestConfig.model_validate(base | changes)


def raw(shape=(7, 11), seed=0, channel="ir105"):
    bits = makers.AMI[channel][2]
    return np.random.default_rng(seed).integers(1, 2**bits - 2**bits // 8, shape, dtype=np.uint16)


def read(content, channel="ir105", time=TIME, **changes):
    settings = config(**changes)
    stamp = np.datetime64(f"{time[:4]}-{time[4:6]}-{time[6:8]}T{time[8:10]}:{time[10:12]}", "s")
    file = hdf5.opened(content)
    image = gk2a.open(Granule("memory", channel, stamp, len(content)), [file], settings)
    pixels = image.read(*ALL)
    return image, pixels


def planck_radiance(temperature, wavelength):
    """mW m-2 sr-1 (cm-1)-1 by the textbook formula in wavenumbers per centimetre."""
    nu = 1e4 / wavelength
    c1, c2 = 1.191042953e-5, 1.4387774
    return c1 * nu**3 / np.expm1(c2 * nu / temperature)


@pytest.mark.parametrize("channel", [c for c in makers.AMI if c[:2] in ("sw", "wv", "ir")])
def test_an_infrared_band_gives_back_the_temperature_whose_planck_radiance_was_written(channel):
    gain, offset, bits, wavelength, (c0, c1, c2) = makers.AMI[channel]
    effective = np.linspace(235, 299, 60).reshape(5, 12)
    counts = np.rint((planck_radiance(effective, wavelength) - offset) / gain)
    assert counts.min() > 0
    assert counts.max() < 2**bits
    _, pixels = read(makers.gk2a(channel, TIME, counts.astype(np.uint16)), channel, channels=[channel])
    expected = c0 + c1 * effective + c2 * effective**2
    step = abs(gain) / np.gradient(planck_radiance(effective.ravel(), wavelength), effective.ravel()).min()
    assert np.abs(pixels.values - expected).max() < 0.51 * step + 0.005


def test_a_visible_band_is_linear_in_its_counts():
    gain, offset, _, _, albedo = makers.AMI["vi006"]
    counts = raw(channel="vi006")
    _, pixels = read(makers.gk2a("vi006", TIME, counts), "vi006", channels=["vi006"])
    np.testing.assert_allclose(pixels.values, 100 * albedo * (gain * counts + offset), rtol=1e-6)


def test_quality_bits_are_honoured_and_counted():
    counts = raw()
    counts[0, :4] |= np.array([1, 2, 3, 0], np.uint16) << 14
    content = makers.gk2a("ir105", TIME, counts)
    _, pixels = read(content)
    np.testing.assert_array_equal(np.isnan(pixels.values[0, :4]), [True, True, True, False])
    assert np.isnan(pixels.values).sum() == 3
    assert (pixels.flagged, pixels.out_of_range) == (2, 0)
    _, kept = read(content, conditional=True)
    assert np.isfinite(kept.values[0, 0])
    assert (kept.flagged, kept.out_of_range) == (1, 0)


def reason_of(counts, sector):
    image, _ = read(makers.gk2a("ir105", TIME, counts, sector=sector), sector=sector)
    return align(image, image.grid).reason


def test_what_was_not_scanned_of_the_earth_is_missing_and_space_is_not():
    part = raw((500, 500))
    assert reason_of(part, "la") is Reason.NONE
    part[50:] = 2 << 14
    assert reason_of(part, "la") is Reason.PART_OF_AREA
    disk, (rows, columns) = raw((5500, 5500)), np.ogrid[-1:1:5500j, -1:1:5500j]
    disk[rows**2 + columns**2 > 0.99**2] = 2 << 14
    assert reason_of(disk, "fd") is Reason.NONE
    disk[2000, 3000] = 2 << 14
    assert reason_of(disk, "fd") is Reason.PART_OF_AREA


def test_what_is_outside_the_physical_range_is_missing_and_counted():
    counts = raw()
    counts[2, 3] = 8190  # the radiance is negative there
    _, pixels = read(makers.gk2a("ir105", TIME, counts))
    assert np.isnan(pixels.values[2, 3])
    assert (pixels.flagged, pixels.out_of_range) == (0, 1)


def test_local_area_pixels_lie_where_the_header_puts_them():
    """The corner of a published local area: 44.2 N at its top, 31.1 N at its bottom (y = 0.117 and 0.089 rad)."""
    image, _ = read(makers.gk2a("ir105", TIME, raw((500, 500))))
    height = 42164000.0 - 6378137.0
    top, bottom = image.grid.y[[0, -1]] / height
    assert top == pytest.approx(0.117, abs=5e-4)
    assert bottom == pytest.approx(0.089, abs=5e-4)
    lon, lat = area.lonlat(image.grid)
    assert lat[0].max() == pytest.approx(44.2, abs=0.4)
    assert lat[-1].min() == pytest.approx(31.1, abs=0.4)
    assert lon.min() < 124 < 131 < lon.max()


def test_full_disk_spans_the_published_extent():
    image, _ = read(makers.gk2a("ir105", TIME, np.full((5500, 5500), 4000, np.uint16), sector="fd"), sector="fd")
    half = image.grid.spacing[1] / 2
    assert image.grid.x[-1] + half == pytest.approx(5511022.9, abs=0.1)
    assert image.grid.y[0] + half == pytest.approx(5511022.9, abs=0.1)
    assert image.grid.x[0] == -image.grid.x[-1]


def test_keys():
    name = makers.gk2a_name("vi006", TIME)
    assert gk2a.parse(name, config()) == [("vi006", np.datetime64("2023-09-05T12:30:00"))]
    wrong = [
        name.replace("005ge", "020ge"),
        name.replace("_la", "_fd"),
        name.replace("2309", "2313"),
        name.replace("vi006", "vi007"),
        name + ".tmp",
        "index.html",
    ]
    assert [gk2a.parse(key, config()) for key in wrong] == [[]] * len(wrong)
    times = config(times={"start": "2023-09-30T23:30", "end": "2023-10-01T01:00"}).times
    assert gk2a.prefixes(config(), times) == ["AMI/L1B/LA/202309/30/23/", "AMI/L1B/LA/202310/01/00/"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"drop": ("DN_to_Radiance_Gain",)}, Reason.MISSING_ATTRIBUTE),
        ({"drop": ("channel_name",)}, Reason.MISSING_ATTRIBUTE),
        ({"attributes": {"Teff_to_Tbb_c1": np.nan}}, Reason.BAD_ATTRIBUTE),
        ({"attributes": {"cfac": "wide"}}, Reason.BAD_ATTRIBUTE),
        ({"attributes": {"number_of_valid_bits_per_pixel": np.uint8(200)}}, Reason.BAD_ATTRIBUTE),
        ({"attributes": {"channel_name": "IR112"}}, Reason.WRONG_CHANNEL),
        ({"attributes": {"channel_center_wavelength": 11.23}}, Reason.WRONG_CHANNEL),
        ({"late_seconds": 600}, Reason.WRONG_TIME),
        ({"late_seconds": -3600}, Reason.WRONG_TIME),
        ({"late_seconds": 31 - 120}, Reason.WRONG_TIME),  # the neighbours' of a series that begins 31 seconds late
        ({"late_seconds": 31 + 120}, Reason.WRONG_TIME),
        ({"attributes": {"number_of_lines": np.int32(8)}}, Reason.WRONG_SHAPE),
        ({"attributes": {"cfac": 2.1e7}}, Reason.WRONG_GRID),
        ({"attributes": {"earth_equatorial_radius": 6378137.0 - 2**15}}, Reason.BAD_ATTRIBUTE),  # one bit of it
    ],
)
def test_a_header_that_lies_is_refused_with_its_reason(change, reason):
    with pytest.raises(CorruptGranule) as caught:
        read(makers.gk2a("ir105", TIME, raw(), **change))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("time", "seconds"), [("202507190534", 806175282.4338461), ("202507190556", 806176616.1714611)]
)
def test_published_local_areas_are_of_their_key_and_of_no_neighbour(time, seconds):
    """The `observation_start_time` of two files of 19 July 2025."""
    start = {"observation_start_time": seconds}
    image, _ = read(makers.gk2a("ir105", time, raw(), attributes=start), time=time)
    assert 0 < image.observation_time - np.datetime64(f"2025-07-19T05:{time[-2:]}") < np.timedelta64(60, "s")
    for minutes in (-2, 2):
        neighbour = f"{int(time) + minutes}"
        with pytest.raises(CorruptGranule) as caught:
            read(makers.gk2a("ir105", neighbour, raw(), attributes=start), time=neighbour)
        assert caught.value.reason is Reason.WRONG_TIME


def test_two_files_open_at_once_stay_apart():
    """The HDF5 library takes two in-memory files of one name for the same file."""
    one, two = raw(seed=1), raw(seed=2)
    first = hdf5.opened(makers.gk2a("ir105", TIME, one))
    second = hdf5.opened(makers.gk2a("ir105", TIME, two))
    np.testing.assert_array_equal(hdf5.read(first["image_pixel_values"], *ALL), one)
    np.testing.assert_array_equal(hdf5.read(second["image_pixel_values"], *ALL), two)


def test_a_window_is_the_window_of_the_whole():
    content = makers.gk2a("ir105", TIME, raw((40, 60)), chunks=(16, 16))
    image: Image
    file = hdf5.opened(content)
    image = gk2a.open(Granule("m", "ir105", np.datetime64("2023-09-05T12:30", "s"), 0), [file], config())
    whole, part = image.read(*ALL), image.read(slice(5, 33), slice(17, 59))
    np.testing.assert_array_equal(part.values, whole.values[5:33, 17:59])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"<!DOCTYPE html><html>not found</html>", Reason.NOT_HDF5),
        (b"\x00" * 4096, Reason.NOT_HDF5),
        (makers.gk2a("ir105", TIME, raw())[:2000], Reason.TRUNCATED),
    ],
)
def test_what_is_no_whole_hdf5_file_is_refused(content, reason):
    with pytest.raises(CorruptGranule) as caught:
        read(content)
    assert caught.value.reason is reason


def test_another_product_is_refused():
    path = h5py.File("other", "w", driver="core", backing_store=False)
    path["image_pixel_values"] = np.zeros((4, 4), np.float32)
    path.flush()
    with pytest.raises(CorruptGranule, match="wrong_shape"):
        read(path.id.get_file_image())
    path.close()
