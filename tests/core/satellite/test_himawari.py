import struct

import numpy as np
import pytest

from core.config import IngestConfig
from core.satellite import area, himawari, packed, source
from core.satellite.granule import CorruptGranule, Grid, Reason
from tests.core.satellite import imagers

START = "20232481800000"
PRODUCT = (24, 30)
PLACES = {1: (0, 0), 2: (0, 15), 3: (12, 0), 4: (12, 15)}


@pytest.fixture(autouse=True)
def forget_places():
    himawari._LAYOUTS.clear()


def config(root, **changes):
    base = {
        "system": "himawari",
        "sector": "",
        "source": str(root),
        "channels": ["B13"],
        "times": {"start": "2023-09-05T18:00", "end": "2023-09-05T18:30"},
        "origin": "2023-09-05T00:00",
    }
    return IngestConfig.model_validate(base | changes)


def truth(channel, finer=1):
    shape = (PRODUCT[0] * finer, PRODUCT[1] * finer)
    return np.random.default_rng(int(channel[1:])).integers(500, 3000, shape).astype(np.int16)


def write(root, channel, start=START, tiles=(1, 2, 3, 4), **changes):
    finer = imagers.AHI_FINER.get(channel, 1)
    values = truth(channel, finer)
    for n in tiles:
        row, column = (p * finer for p in PLACES[n])
        part = values[row : row + 12 * finer, column : column + 15 * finer]
        product = (PRODUCT[0] * finer, PRODUCT[1] * finer)
        path = root / imagers.tile_name(channel, start, n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(imagers.tile(channel, start, part, (row, column), product, **changes))
    return values


def test_tiles_become_one_image_on_the_full_grid(tmp_path):
    raw = write(tmp_path, "B13")
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    assert len(granule.parts) == 4
    assert granule.size == sum(p.size for p in granule.parts)
    grid = source.archive_grid([granule], settings)
    assert grid.shape == PRODUCT
    frame = source.read_frame(granule, settings, grid)
    np.testing.assert_allclose(frame.values, raw * 0.05 + 160, atol=1e-4)
    assert (frame.kind, frame.reason) == ("brightness_temperature", Reason.NONE)
    step = imagers.AHI_STEP * 1e-6 * 35785863.0
    np.testing.assert_allclose(grid.x, step * (np.arange(30) - 14.5), rtol=1e-9)
    np.testing.assert_allclose(grid.y, -step * (np.arange(24) - 11.5), rtol=1e-9)


def test_bands_of_three_resolutions_come_onto_one_grid(tmp_path):
    fine = {channel: write(tmp_path, channel) for channel in ("B13", "B01", "B03")}
    settings = config(tmp_path, channels=["B13", "B01", "B03"])
    granules = source.list_granules(settings)
    grid = source.archive_grid(granules, settings)
    frames = {g.channel: source.read_frame(g, settings, grid) for g in granules}
    for channel, finer in (("B01", 2), ("B03", 4)):
        expected = 100 * 0.0003 * fine[channel].reshape(24, finer, 30, finer).mean(axis=(1, 3))
        np.testing.assert_allclose(frames[channel].values, expected, rtol=1e-5)
        assert frames[channel].kind == "reflectance"


def test_a_crop_opens_only_the_tiles_it_needs(tmp_path, monkeypatch):
    for start in (START, "20232481810000"):
        write(tmp_path, "B13", start)
    settings = config(tmp_path)
    first, second = source.list_granules(settings)
    whole = source.archive_grid([first], settings)
    source.read_frame(first, settings, whole)
    fetched = []
    real = source.fetch
    monkeypatch.setattr(source, "fetch", lambda part, c: fetched.append(himawari.number(part)) or real(part, c))
    corner = whole.window(slice(14, 20), slice(18, 28))
    frame = source.read_frame(second, settings, corner)
    np.testing.assert_allclose(frame.values, truth("B13")[14:20, 18:28] * 0.05 + 160, atol=1e-4)
    assert fetched == [1, 4]  # the first for its header, the fourth for its pixels


def test_a_tile_that_has_not_come_is_a_gap_that_says_so(tmp_path):
    write(tmp_path, "B13", tiles=(1, 2, 4))
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    grid = source.archive_grid([granule], settings)
    frame = source.read_frame(granule, settings, grid)
    assert frame.reason is Reason.MISSING_TILES
    assert np.isnan(frame.values[12:, :15]).all()
    assert np.isfinite(np.delete(frame.values, np.s_[12:], 0)).all()
    # A crop beside the gap is complete.
    assert source.read_frame(granule, settings, grid.window(slice(0, 12), slice(0, 30))).reason is Reason.NONE


def test_a_tile_that_lies_of_its_place_is_a_gap_and_misleads_no_later_image(tmp_path):
    later = "20232481810000"
    write(tmp_path, "B13", tiles=(1, 2, 4))
    write(tmp_path, "B13", tiles=(3,), attributes={"tile_row_offset": np.array([4])})
    write(tmp_path, "B13", later)
    settings = config(tmp_path)
    first, second = source.list_granules(settings)
    grid = source.archive_grid([second], settings)
    himawari._LAYOUTS.clear()
    south = grid.window(slice(18, 24), slice(0, 30))
    assert source.read_frame(first, settings, south).reason is Reason.MISSING_TILES
    assert source.read_frame(second, settings, south).reason is Reason.NONE


HALF = {"rows": 6}  # of twelve, with the coordinates of half a tile
ELSEWHERE = {"product": (48, 60)}  # a whole tile, whose offsets and coordinates are those of a larger image


@pytest.mark.parametrize("changes", [HALF, ELSEWHERE], ids=["half", "of a larger image"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_tile_that_agrees_with_itself_and_with_no_other_is_a_gap(tmp_path, n, changes):
    later = "20232481810000"
    values = write(tmp_path, "B13")
    write(tmp_path, "B13", later)
    row, column = PLACES[n]
    part = values[row : row + changes.get("rows", 12), column : column + 15]
    lying = imagers.tile("B13", START, part, (row, column), changes.get("product", PRODUCT))
    (tmp_path / imagers.tile_name("B13", START, n)).write_bytes(lying)
    settings = config(tmp_path)
    first, second = source.list_granules(settings)
    grid = source.archive_grid([second], settings)
    himawari._LAYOUTS.clear()
    frame = source.read_frame(first, settings, grid)
    assert frame.reason is Reason.MISSING_TILES
    expected = (values * 0.05 + 160).astype(np.float32)
    expected[row : row + 12, column : column + 15] = np.nan
    np.testing.assert_allclose(frame.values, expected, atol=1e-4)
    assert source.read_frame(second, settings, grid).reason is Reason.NONE


def test_tiles_of_which_no_two_agree_are_no_image(tmp_path):
    values = write(tmp_path, "B13", tiles=(1,))
    lying = imagers.tile("B13", START, values[:6, 15:], (0, 15), PRODUCT)
    (tmp_path / imagers.tile_name("B13", START, 2)).write_bytes(lying)
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    with pytest.raises(CorruptGranule) as caught, source.opened(granule, settings):
        pass
    assert caught.value.reason is Reason.WRONG_GRID


def test_a_tile_under_another_s_number_is_a_gap_and_misleads_no_later_image(tmp_path):
    later = "20232481810000"
    write(tmp_path, "B13")
    write(tmp_path, "B13", later)
    third, fourth = (tmp_path / imagers.tile_name("B13", START, n) for n in (3, 4))
    third.write_bytes(fourth.read_bytes())
    settings = config(tmp_path)
    first, second = source.list_granules(settings)
    grid = source.archive_grid([second], settings)
    himawari._LAYOUTS.clear()
    southwest = grid.window(slice(12, 24), slice(0, 15))
    with pytest.raises(CorruptGranule):
        source.read_frame(first, settings, southwest)
    assert source.read_frame(second, settings, southwest).reason is Reason.NONE


def test_a_tile_whose_pixels_cannot_be_read_is_a_gap(tmp_path):
    """Its rows lie in the file, and its shape says that there are fewer."""
    write(tmp_path, "B13")
    path = tmp_path / imagers.tile_name("B13", START, 2)
    whole = path.read_bytes()
    damaged = whole.replace(struct.pack("<QQ", 12, 15), struct.pack("<QQ", 6, 15)).replace(
        struct.pack("<QQ", 12, 12), struct.pack("<QQ", 6, 6)
    )
    assert damaged != whole
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    grid = source.archive_grid([granule], settings)
    path.write_bytes(damaged)
    frame = source.read_frame(granule, settings, grid)
    assert frame.reason is Reason.MISSING_TILES
    assert np.isnan(frame.values[:12, 15:]).all()
    assert np.isnan(frame.values).sum() == 12 * 15


def test_a_gap_counts_whatever_the_files_say_of_how_many_they_are(tmp_path):
    write(tmp_path, "B13", tiles=(1, 2, 4), attributes={"number_product_tiles": np.array([3])})
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    frame = source.read_frame(granule, settings, source.archive_grid([granule], settings))
    assert frame.reason is Reason.MISSING_TILES


def test_the_tiles_of_space_alone_are_no_gap():
    """A disk of ten by ten tiles, of which the bucket holds 88, against what PROJ sees."""
    step = 10 * imagers.AHI_STEP * 1e-6 * 35785863.0
    axis = step * (np.arange(550) - 274.5)
    crs = {"grid_mapping_name": "geostationary", "perspective_point_height": 35785863.0, "sweep_angle_axis": "y"}
    disk = Grid(axis, -axis, crs | {"semi_major_axis": 6378137.0, "semi_minor_axis": 6356752.3})
    seen = np.isfinite(area.lonlat(disk)[0]).reshape(10, 55, 10, 55).any(axis=(1, 3))
    assert seen.sum() == 88
    for row, column in np.ndindex(10, 10):
        gap = np.zeros(disk.shape, bool)
        gap[55 * row : 55 * row + 55, 55 * column : 55 * column + 55] = True
        assert packed.lacks_earth(gap, disk) == seen[row, column]


def test_a_corrupt_tile_is_a_gap_and_four_are_the_end(tmp_path):
    write(tmp_path, "B13")
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    grid = source.archive_grid([granule], settings)
    names = [tmp_path / imagers.tile_name("B13", START, n) for n in PLACES]
    names[0].write_bytes(b"<html>503</html>")
    (granule,) = source.list_granules(settings)
    frame = source.read_frame(granule, settings, grid)
    assert frame.reason is Reason.MISSING_TILES
    assert np.isnan(frame.values).sum() == 12 * 15
    for name in names:
        name.write_bytes(b"<html>503</html>")
    (granule,) = source.list_granules(settings)
    with pytest.raises(CorruptGranule) as caught:
        source.read_frame(granule, settings, grid)
    assert caught.value.reason is Reason.NOT_HDF5


def test_a_tile_published_twice_counts_once(tmp_path):
    write(tmp_path, "B13")
    old = tmp_path / imagers.tile_name("B13", START, 2)
    (old.parent / old.name.replace("c20232481808000", "c20232481807000")).write_bytes(b"older and bad")
    (granule,) = source.list_granules(config(tmp_path))
    assert len(granule.parts) == 4
    grid = source.archive_grid([granule], config(tmp_path))
    assert source.read_frame(granule, config(tmp_path), grid).reason is Reason.NONE


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"channel_id": np.array([14])}, Reason.WRONG_CHANNEL),
        ({"start_date_time": "2023248183000"}, Reason.WRONG_TIME),
        ({"tile_row_offset": np.array([20])}, Reason.WRONG_SHAPE),
    ],
)
def test_tiles_that_lie_are_refused_with_their_reason(tmp_path, attributes, reason):
    write(tmp_path, "B13", tiles=(4,), attributes=attributes)
    settings = config(tmp_path)
    (granule,) = source.list_granules(settings)
    with pytest.raises(CorruptGranule) as caught, source.opened(granule, settings):
        pass
    assert caught.value.reason is reason


def test_folders_are_asked_by_slot(tmp_path):
    settings = config(tmp_path, cadence_minutes=30, times={"start": "2023-09-05T17:40", "end": "2023-09-05T18:40"})
    expected = [f"AHI-L2-FLDK-ISatSS/2023/09/05/{slot}/" for slot in ("1800", "1830")]
    assert himawari.prefixes(settings, settings.times) == expected
    wrong_resolution = imagers.tile_name("B13", START, 1).replace("-020-", "-010-")
    assert himawari.parse(wrong_resolution, settings) == []
