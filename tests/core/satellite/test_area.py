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


@pytest.mark.parametrize(
    ("text", "message"),
    [("atlantis", "korea, japan"), ("1,2,3", "four numbers"), ("120,40,130,30", "south first"), ("a,b,c,d", "neither")],
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
