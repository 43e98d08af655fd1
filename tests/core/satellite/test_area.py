import numpy as np
import pytest

from core.errors import FewcastError
from core.satellite import area
from core.satellite.granule import Grid
from tests.core.satellite.test_grid import GEOS

HALF = 2750
DISK = Grid((np.arange(2 * HALF) - HALF + 0.5) * 2004.0083, (HALF - 0.5 - np.arange(2 * HALF)) * 2004.0083, dict(GEOS))


@pytest.mark.parametrize("name", ["korea", "japan", "taiwan", "australia", "east-asia", "Southeast Asia"])
def test_a_window_is_the_smallest_that_holds_every_pixel_of_the_area(name):
    box = area.bounds(name)
    rows, columns = area.window(DISK, box)
    coarse = Grid(DISK.x[::10], DISK.y[::10], DISK.crs)
    lon, lat = area.lonlat(coarse)
    inside = (lon >= box.west) & (lon <= box.east) & (lat >= box.south) & (lat <= box.north)
    seen_rows, seen_columns = np.where(inside.any(axis=1))[0] * 10, np.where(inside.any(axis=0))[0] * 10
    assert rows.start <= seen_rows[0] < rows.start + 30
    assert rows.stop - 30 < seen_rows[-1] + 1 <= rows.stop
    assert columns.start <= seen_columns[0] < columns.start + 30
    assert columns.stop - 30 < seen_columns[-1] + 1 <= columns.stop


def test_numbers_name_an_area_and_the_date_line_may_be_crossed():
    assert area.bounds("124, 33,131.5,39") == (124, 33, 131.5, 39)
    assert area.bounds("170,-50,-170,-30") == (170, -50, 190, -30)
    assert area.bounds(" ") is None
    rows, columns = area.window(DISK, area.bounds("170,-30,-175,-20"))
    assert columns.start > HALF
    assert rows.start > HALF


LIMB = Grid(*((np.arange(550) - 274.5) * 20040.083 * sign for sign in (1, -1)), GEOS)


@pytest.mark.parametrize(
    "text", ["-180,-60,180,60", "0,-60,360,60", "60,-80,-150,80", "160,-80,-130,80", "-180,-90,180,90"]
)
def test_an_area_that_the_limb_cuts_loses_no_pixel(text):
    box = area.bounds(text)
    rows, columns = area.window(LIMB, box)
    lon, lat = area.lonlat(LIMB)
    inside = ((lon - box.west) % 360 <= box.east - box.west) & (lat >= box.south) & (lat <= box.north)
    assert inside.sum() == inside[rows, columns].sum() > 0
    held = np.argwhere(inside)
    assert (held.min(axis=0) - (rows.start, columns.start)).max() <= 1
    assert ((rows.stop, columns.stop) - held.max(axis=0)).max() <= 2


@pytest.mark.parametrize("west", [-180, 0])
def test_a_band_round_the_earth_holds_every_column(west):
    x, y = west + 0.5 + np.arange(360.0), 89.5 - np.arange(180.0)
    degrees = {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0, "inverse_flattening": 298.257}
    for text in ("-180,-60,180,60", "0,-60,360,60"):
        rows, columns = area.window(Grid(x, y, degrees), area.bounds(text))
        assert columns == slice(0, 360)
        assert 0 < rows.start <= 30


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("atlantis", "korea, japan"),
        ("1,2,3", "four numbers"),
        ("120,40,130,30", "south first"),
        ("a,b,c,d", "neither"),
        ("10,-60,10,60", "360 degrees wide"),
        ("-180,-60,200,60", "360 degrees wide"),
    ],
)
def test_what_is_no_area_is_told_in_one_line(text, message):
    with pytest.raises(FewcastError, match=message) as caught:
        area.bounds(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["conus", "-60,-20,-30,10"])
def test_an_area_behind_the_earth_is_told(text):
    with pytest.raises(FewcastError, match="outside the satellite's view"):
        area.window(DISK, area.bounds(text))


def test_an_area_beside_the_sector_is_told():
    sector = DISK.window(slice(600, 900), slice(2400, 2800))
    with pytest.raises(FewcastError, match="outside the granules' grid"):
        area.window(sector, area.bounds("australia"))
