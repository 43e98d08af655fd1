import io

import h5py
import numpy as np
import pytest

from core.config import IngestConfig
from core.satellite import area, goes, grid, hdf5
from core.satellite.granule import CorruptGranule, Granule, Reason
from tests.core.satellite import imagers

START = "20232481801173"
SLOT = np.datetime64("2023-09-05T18:00:00")
ALL = (slice(None), slice(None))


def config(**changes):
    base = {
        "system": "goes",
        "sector": "c",
        "source": "unused",
        "channels": ["C13"],
        "times": {"start": "2023-09-05T18:00", "end": "2023-09-05T19:00"},
        "origin": "2023-09-05T00:00",
    }
    return IngestConfig.model_validate(base | changes)


def raw(channel="C13", shape=(6, 9)):
    bits = imagers.ABI[channel][3]
    return np.random.default_rng(2).integers(2**bits // 4, 2**bits // 2, shape, dtype=np.uint16)


def read(content, channel="C13", **changes):
    settings = config(channels=[channel], **changes)
    file = hdf5.opened(content)
    image = goes.open(Granule("memory", channel, SLOT, len(content)), [file], settings)
    return image, image.read(*ALL)


@pytest.mark.parametrize("channel", list(imagers.ABI))
def test_every_band_follows_the_published_formula(channel):
    counts = raw(channel)
    scale, offset, last, _ = imagers.ABI[channel]
    radiance = scale * counts.astype(np.float64) + offset
    image, pixels = read(imagers.goes(channel, START, counts), channel)
    if isinstance(last, tuple):
        fk1, fk2, bc1, bc2 = last
        expected, tolerance = (fk2 / np.log(fk1 / radiance + 1) - bc1) / bc2, 2e-3
    else:
        expected, tolerance = 100 * last * radiance, 1e-4
    np.testing.assert_allclose(pixels.values, expected, atol=tolerance)
    assert image.kind == ("brightness_temperature" if isinstance(last, tuple) else "reflectance")
    assert image.observation_time == np.datetime64("2023-09-05T18:01:17")


def test_an_earth_that_is_longer_than_wide_is_refused():
    content = io.BytesIO(imagers.goes("C13", START, raw()))
    with h5py.File(content, "r+") as file:
        file["goes_imager_projection"].attrs["semi_major_axis"] = np.array([6378137.0 - 2**15])
    with pytest.raises(CorruptGranule, match="semi_minor_axis") as caught:
        read(content.getvalue())
    assert caught.value.reason is Reason.BAD_ATTRIBUTE


def test_quality_fill_and_range_are_told_apart():
    counts, quality = raw(), np.zeros((6, 9), np.uint8)
    quality[0, :5] = [1, 2, 3, 4, 255]
    counts[0, 4] = counts[1, 0] = (1 << 12) - 1  # the fill value
    counts[1, 1] = 3  # a negative radiance
    content = imagers.goes("C13", START, counts, quality)
    _, pixels = read(content)
    assert np.isnan(pixels.values[0, :5]).all()
    assert np.isnan(pixels.values[1, :2]).all()
    assert np.isnan(pixels.values).sum() == 7
    assert (pixels.flagged, pixels.out_of_range) == (4, 1)
    _, kept = read(content, conditional=True)
    assert np.isfinite(kept.values[0, 0])
    assert kept.flagged == 3


FILL = (1 << 12) - 1  # of C13
# Rows, columns, and the north-west corner; the disk has every fourth pixel.
SECTORS = {"full disk": (1356, 1356, -0.15176, 0.15176), "conus": (1500, 2500, -0.101332, 0.128212)}


def scan(sector, monkeypatch):
    """Counts and quality of C13 as published: nothing where a pixel's centre meets no Earth; and that mask."""
    rows, columns, x0, y0 = SECTORS[sector]
    monkeypatch.setattr(imagers, "ABI_STEP", 5.6e-5 * (4 if sector == "full disk" else 1))
    counts, quality = np.full((rows, columns), 900, np.uint16), np.zeros((rows, columns), np.uint8)
    image, _ = read(imagers.goes("C13", START, counts, quality, corner=(x0, y0)))
    space = np.isnan(area.lonlat(image.grid)[0])
    counts[space], quality[space] = FILL, 255
    return counts, quality, space, (x0, y0)


@pytest.mark.parametrize("sector", SECTORS)
def test_space_is_no_gap(sector, monkeypatch):
    counts, quality, space, corner = scan(sector, monkeypatch)
    assert space[0, 0]
    assert not space[len(space) // 2].all()

    image, _ = read(imagers.goes("C13", START, counts, quality, corner=corner))
    assert grid.align(image, image.grid).reason is Reason.NONE


@pytest.mark.parametrize("flag", [0, 255])
def test_earth_that_was_not_scanned_is_a_gap(flag, monkeypatch):
    counts, quality, space, corner = scan("conus", monkeypatch)
    counts[700, 1250], quality[700, 1250] = FILL, flag
    image, _ = read(imagers.goes("C13", START, counts, quality, corner=corner))
    assert not space[700, 1250]
    assert grid.align(image, image.grid).reason is Reason.PART_OF_AREA


def test_coordinates_in_single_precision_give_the_fixed_grid():
    image, _ = read(imagers.goes("C13", START, np.full((1500, 2500), 900, np.uint16)))
    height = 35786023.0
    np.testing.assert_allclose(image.grid.x, height * (-0.101332 + 5.6e-5 * np.arange(2500)), atol=0.01)
    np.testing.assert_allclose(image.grid.y, height * (0.128212 - 5.6e-5 * np.arange(1500)), atol=0.01)
    assert image.grid.crs["sweep_angle_axis"] == "x"


def test_keys_name_the_slot_they_start_in():
    name = imagers.goes_name("C13", START)
    assert goes.parse(name, config()) == [("C13", SLOT)]
    assert goes.parse(imagers.goes_name("C02", "20232481800205", "F"), config(sector="f")) == [("C02", SLOT)]
    assert goes.parse(imagers.goes_name("C02", "20232481800553", "M2"), config(sector="m2")) == [("C02", SLOT)]
    wrong = [
        name.replace("RadC", "RadF"),
        name.replace("C13", "C17"),
        name + ".tmp",
        name.replace("2023248", "2023400"),
    ]
    assert [goes.parse(key, config()) for key in wrong] == [[]] * 4
    assert goes.parse(imagers.goes_name("C02", START, "M1"), config(sector="m2")) == []
    times = config(times={"start": "2023-12-31T23:10", "end": "2024-01-01T00:10"}).times
    assert goes.prefixes(config(sector="m1"), times) == ["ABI-L1b-RadM/2023/365/23/", "ABI-L1b-RadM/2024/001/00/"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"band": 14}, Reason.WRONG_CHANNEL),
        ({"attributes": {"time_coverage_start": "2023-09-05T18:06:17.3Z"}}, Reason.WRONG_TIME),
        ({"attributes": {"time_coverage_start": "yesterday"}}, Reason.BAD_ATTRIBUTE),
        ({"corner": (5.0, 0.1)}, Reason.WRONG_GRID),
    ],
)
def test_a_header_that_lies_is_refused_with_its_reason(change, reason):
    with pytest.raises(CorruptGranule) as caught:
        read(imagers.goes("C13", START, raw(), **change))
    assert caught.value.reason is reason
