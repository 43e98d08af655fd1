import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.satellite import area, grid
from core.satellite.granule import CorruptGranule, Grid, Image, Pixels, Reason

GEOS = {
    "grid_mapping_name": "geostationary",
    "perspective_point_height": 35785863.0,
    "longitude_of_projection_origin": 128.2,
    "latitude_of_projection_origin": 0.0,
    "sweep_angle_axis": "y",
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.3,
}
MERCATOR = {
    "grid_mapping_name": "mercator",
    "longitude_of_projection_origin": 120.0,
    "standard_parallel": 0.0,
    "earth_radius": 6371228.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
}
STEP = 2004.0


def lattice(shape, row=0.0, column=0.0, step=STEP, crs=GEOS):
    """A grid whose first pixel's north-west corner lies (row, column) 2 km pixels from a fixed one."""
    x = -600_000 + column * STEP + step * (np.arange(shape[1]) + 0.5)
    y = 3_900_000 - row * STEP - step * (np.arange(shape[0]) + 0.5)
    return Grid(x, y, crs)


def image(values, where, **loss):
    """An image of these values that also checks that no window beyond it is asked for."""

    def read(rows, columns):
        assert 0 <= rows.start < rows.stop <= values.shape[0]
        assert 0 <= columns.start < columns.stop <= values.shape[1]
        return Pixels(values[rows, columns].astype(np.float32), loss.get("flagged", 0), loss.get("wild", 0), False)

    time = np.datetime64("2023-09-05T12:30", "s")
    return Image("ir105", "brightness_temperature", time, time, where, read)


def noise(shape, seed=0, gaps=0.0):
    generator = np.random.default_rng(seed)
    values = generator.normal(270, 20, shape).astype(np.float32)
    values[generator.random(shape) < gaps] = np.nan
    return values


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.floats(0, 0.9), st.integers(0, 9))
def test_block_mean_is_the_brute_force_mean_of_what_is_there(rows, columns, block, gaps, seed):
    values = noise((rows * block, columns * block), seed, gaps)
    result = grid.block_mean(values, block)
    for i in range(rows):
        for j in range(columns):
            cell = values[i * block : (i + 1) * block, j * block : (j + 1) * block].astype(np.float64)
            there = cell[~np.isnan(cell)]
            if there.size * 2 >= block**2:
                assert result[i, j] == pytest.approx(there.mean(), abs=1e-3)
            else:
                assert np.isnan(result[i, j])


def test_coarsen_keeps_the_corner_and_drops_what_is_incomplete():
    fine = lattice((7, 11))
    coarse = grid.coarsen(fine, 3)
    assert coarse.shape == (2, 3)
    assert coarse.x[0] - 1.5 * STEP == pytest.approx(fine.x[0] - 0.5 * STEP)
    assert coarse.y[0] == pytest.approx(fine.y[1])
    with pytest.raises(ValueError, match="do not fit"):
        grid.coarsen(fine, 8)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_same_lattice_is_shifted_by_whole_pixels(block):
    values = noise((40, 50), gaps=0.05)
    target = grid.coarsen(lattice((24, 30), row=5, column=7), block)
    frame = grid.align(image(values, lattice((40, 50))), target)
    np.testing.assert_array_equal(frame.values, grid.block_mean(values[5:29, 7:37], block))
    assert frame.reason is Reason.NONE
    assert frame.grid is target


@pytest.mark.parametrize("finer", [2, 4])
def test_a_finer_band_lands_on_the_coarse_lattice_exactly(finer):
    values = noise((12 * finer, 10 * finer))
    fine = lattice((12 * finer, 10 * finer), step=STEP / finer)
    frame = grid.align(image(values, fine), lattice((12, 10)))
    expected = values.reshape(12, finer, 10, finer).mean(axis=(1, 3))
    np.testing.assert_allclose(frame.values, expected, rtol=1e-6)


def test_an_area_that_is_only_partly_covered_is_filled_with_gaps_and_says_so():
    values = noise((10, 10))
    frame = grid.align(image(values, lattice((10, 10))), lattice((10, 10), row=-3, column=4))
    expected = np.full((10, 10), np.nan, np.float32)
    expected[3:, :6] = values[:7, 4:]
    np.testing.assert_array_equal(frame.values, expected)
    assert frame.reason is Reason.PART_OF_AREA


@pytest.mark.parametrize("row", [100, 100.4])
def test_grids_that_do_not_overlap_are_refused(row):
    with pytest.raises(CorruptGranule) as caught:
        grid.align(image(noise((10, 10)), lattice((10, 10))), lattice((10, 10), row=row))
    assert caught.value.reason is Reason.WRONG_GRID


def test_a_granule_smaller_than_a_block_of_another_lattice_is_refused():
    target = lattice((3, 3), row=-2.4, column=-2.4, step=8 * STEP)
    with pytest.raises(CorruptGranule) as caught:
        grid.align(image(noise((5, 12)), lattice((5, 12))), target)
    assert caught.value.reason is Reason.WRONG_GRID


def plane(where):
    """A field that bilinear interpolation must give back exactly: linear in the projection's coordinates."""
    x, y = np.meshgrid(where.x, where.y)
    return 270 + x / 5e4 + y / 7e4


@pytest.mark.parametrize(("row", "column"), [(2.3, 4.0), (2.0, 4.5), (3.77, 1.21)])
def test_another_lattice_is_interpolated(row, column):
    where, target = lattice((30, 40)), lattice((15, 20), row=row, column=column)
    frame = grid.align(image(plane(where), where), target)
    np.testing.assert_allclose(frame.values, plane(target), atol=2e-4)
    assert frame.reason is Reason.NONE


def test_a_coarser_lattice_off_the_grid_is_averaged_then_interpolated():
    where, target = lattice((80, 100)), lattice((9, 12), row=3.4, column=5.3, step=3.2 * STEP)
    frame = grid.align(image(plane(where), where), target)
    np.testing.assert_allclose(frame.values, plane(target), atol=2e-3)
    white = image(noise((80, 100)), where)
    assert np.std(grid.align(white, target).values) < 0.5 * 20  # a lone sample of white noise would keep its spread


def test_another_projection_agrees_with_interpolation_at_pyproj_positions():
    where = lattice((300, 300))
    lon, lat = area.lonlat(where)
    field = (250 + 2 * lon - 3 * lat).astype(np.float32)
    middle = pyproj.Transformer.from_crs(4326, area.crs(Grid(where.x, where.y, MERCATOR)), always_xy=True)
    x, y = middle.transform(lon[150, 150], lat[150, 150])
    target = Grid(x + 4000 * np.arange(-20, 20), y - 4000 * np.arange(-15, 15), MERCATOR)
    there_lon, there_lat = area.lonlat(target)
    frame = grid.align(image(field, where), target)
    np.testing.assert_allclose(frame.values, 250 + 2 * there_lon - 3 * there_lat, atol=0.02)


def test_missing_pixels_spread_by_less_than_a_pixel():
    where, target = lattice((20, 20)), lattice((10, 10), row=4.25, column=4.25)
    values = plane(where)
    values[8, 8] = np.nan
    frame = grid.align(image(values, where), target)
    assert 1 <= np.isnan(frame.values).sum() <= 4
    good = ~np.isnan(frame.values)
    assert np.abs(frame.values - plane(target))[good].max() < 0.1


@pytest.mark.parametrize(
    ("values", "loss", "reason"),
    [
        (np.full((10, 10), np.nan), {}, Reason.ALL_MISSING),
        (np.full((10, 10), np.nan), {"flagged": 100}, Reason.BAD_QUALITY),
        (noise((10, 10)), {"wild": 51}, Reason.OUT_OF_RANGE),
    ],
)
def test_a_frame_without_substance_is_refused(values, loss, reason):
    with pytest.raises(CorruptGranule) as caught:
        grid.align(image(values, lattice((10, 10)), **loss), lattice((10, 10)))
    assert caught.value.reason is reason


def test_all_zero_is_refused():
    where = lattice((4, 4))
    dead = Image(
        "ir105",
        "display_count",
        np.datetime64("2020-01-01"),
        np.datetime64("2020-01-01"),
        where,
        lambda rows, columns: Pixels(np.zeros((4, 4), np.float32), 0, 0, True),
    )
    with pytest.raises(CorruptGranule) as caught:
        grid.align(dead, where)
    assert caught.value.reason is Reason.ALL_ZERO


def test_bands_of_rows_give_the_same_frame(monkeypatch):
    values, where = noise((41, 33), gaps=0.1), lattice((41, 33))
    targets = [grid.coarsen(where, 2), lattice((17, 15), row=1.4, column=2.2, step=2.1 * STEP)]
    whole = [grid.align(image(values, where), target).values for target in targets]
    monkeypatch.setattr(grid, "BAND_PIXELS", 200)
    for target, expected in zip(targets, whole, strict=True):
        np.testing.assert_array_equal(grid.align(image(values, where), target).values, expected)
