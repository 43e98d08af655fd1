"""Every band of every system against satpy's readers, where satpy is installed (the extra `oracle`)."""

import warnings

import numpy as np
import pyproj
import pytest

from core.satellite import area, gk2a, goes, hdf5, himawari
from core.satellite.granule import Granule
from tests.core.satellite import imagers, makers, test_gk2a, test_goes, test_himawari

satpy = pytest.importorskip("satpy", reason="the oracle satpy is not installed: pip install 'fewcast[oracle]'")
KELVIN, RELATIVE, PIXELS = 0.01, 1e-4, 0.1
ALL = (slice(None), slice(None))


def scene(paths, reader, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return satpy.Scene([str(path) for path in paths], reader=reader, reader_kwargs=options)


def load(loaded, name, infrared):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.load([name], calibration="brightness_temperature" if infrared else "reflectance")
        return loaded[name]


def agree(image, ours, theirs, usable=None):
    """Values within the issue's tolerances wherever both have data, and our gaps are theirs or flagged."""
    theirs = np.asarray(theirs)
    both = np.isfinite(ours) & np.isfinite(theirs)
    assert both.mean() > 0.8
    low, high = (130, 430) if image.kind == "brightness_temperature" else (-10, 200)
    there = np.isfinite(theirs) & (theirs >= low) & (theirs <= high) & (True if usable is None else usable)
    assert (both == there).all()
    error = np.abs(ours - theirs)[both]
    if image.kind == "brightness_temperature":
        assert error.max() < KELVIN
    else:
        assert (error <= RELATIVE * np.maximum(np.abs(theirs[both]), 1.0)).all()


def in_pixels(image, definition, mirrored=False):
    """Largest distance (pixels) between our pixel centres and where satpy's area puts them on the globe."""
    lon, lat = definition.get_lonlats()
    if mirrored:
        lon, lat = lon[::-1], -lat[::-1]
    system = area.crs(image.grid)
    x, y = pyproj.Transformer.from_crs(system.geodetic_crs, system, always_xy=True).transform(lon, lat)
    seen = np.isfinite(x) & np.isfinite(y)
    assert seen.mean() > 0.2
    dy, dx = image.grid.spacing
    gx, gy = np.meshgrid(image.grid.x, image.grid.y)
    return max(np.abs((x - gx)[seen]).max() / dx, np.abs((y - gy)[seen]).max() / dy)


def test_no_band_is_left_out():
    assert set(makers.AMI) == set(gk2a.BANDS)
    assert set(imagers.ABI) == set(goes.BANDS)


@pytest.mark.parametrize("sector", ["fd", "la"])
def test_ami_agrees(tmp_path, sector):
    pytest.importorskip("pyspectral", reason="satpy's reader of AMI needs pyspectral, which is not installed")
    settings = test_gk2a.config(sector=sector, channels=list(makers.AMI))
    contents = {}
    for n, channel in enumerate(makers.AMI):
        counts = test_gk2a.raw((40, 50), seed=n, channel=channel)
        counts[3, :6] |= np.array([0, 1, 2, 3, 3, 0], np.uint16) << 14
        contents[channel] = makers.gk2a(channel, test_gk2a.TIME, counts, sector=sector)
        (tmp_path / makers.gk2a_name(channel, test_gk2a.TIME, sector).rsplit("/", 1)[1]).write_bytes(contents[channel])
    loaded = scene(tmp_path.iterdir(), "ami_l1b", calib_mode="FILE")
    time = np.datetime64("2023-09-05T12:30", "s")
    for channel, content in contents.items():
        theirs = load(loaded, channel.upper(), channel[:2] not in ("vi", "nr"))
        file = hdf5.opened(content)
        image = gk2a.open(Granule("m", channel, time, 0), [file], settings)
        agree(image, image.read(*ALL).values, theirs)
        # satpy takes `lfac` with the wrong sign, which a full disk does not show: its local areas lie mirrored at
        # the equator. The published corner latitudes (test_gk2a) settle whose are right.
        assert in_pixels(image, theirs.attrs["area"], mirrored=sector == "la") < PIXELS


def test_abi_agrees(tmp_path):
    contents = {}
    generator = np.random.default_rng(4)
    quality = generator.choice(np.array([0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3], np.uint8), (40, 50))
    for channel in imagers.ABI:
        counts = test_goes.raw(channel, (40, 50))
        contents[channel] = imagers.goes(channel, test_goes.START, counts, quality, corner=(-0.02, 0.06))
        (tmp_path / imagers.goes_name(channel, test_goes.START).rsplit("/", 1)[1]).write_bytes(contents[channel])
    loaded = scene(tmp_path.iterdir(), "abi_l1b")
    for channel, content in contents.items():
        infrared = int(channel[1:]) > 6
        theirs = load(loaded, channel, infrared)
        file = hdf5.opened(content)
        image = goes.open(Granule("m", channel, test_goes.SLOT, 0), [file], test_goes.config(conditional=True))
        # satpy does not read the quality flags of level 1b.
        agree(image, image.read(*ALL).values, theirs, usable=quality <= 1)
        assert in_pixels(image, theirs.attrs["area"]) < PIXELS


@pytest.mark.parametrize("channel", list(himawari.BANDS))
def test_ahi_agrees(tmp_path, channel):
    """One tile of each band, through satpy's reader of the same sectorized imagery."""
    himawari._LAYOUTS.clear()
    finer = imagers.AHI_FINER.get(channel, 1)
    raw = np.random.default_rng(int(channel[1:])).integers(500, 3000, (40, 50)).astype(np.int16)
    raw[3, :4] = -1
    product = (2000 * finer, 2000 * finer)
    content = imagers.tile(channel, test_himawari.START, raw, (720 * finer, 900 * finer), product)
    name = imagers.tile_name(channel, test_himawari.START, 7).rsplit("/", 1)[1]
    key = tmp_path / name.replace("00000_c", "0000_c").replace("8000.nc", "800.nc")
    key.write_bytes(content)
    loaded = scene([key], "abi_l1b_scmi")
    theirs = load(loaded, f"C{channel[1:]}", int(channel[1:]) > 6)
    granule = Granule(
        "m", channel, np.datetime64("2023-09-05T18:00", "s"), 0, parts=(Granule(str(key), channel, 0, 0),)
    )
    file = hdf5.opened(content)
    image = himawari.open(granule, [file], test_himawari.config("unused", channels=[channel]))
    rows, columns = slice(720 * finer, 720 * finer + 40), slice(900 * finer, 900 * finer + 50)
    ours = image.read(rows, columns).values
    from dataclasses import replace

    part = replace(image, grid=image.grid.window(rows, columns))
    agree(part, ours, theirs)
    assert in_pixels(part, theirs.attrs["area"]) < PIXELS
