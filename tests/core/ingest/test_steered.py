"""A mesoscale box that moves, in an archive of an area."""

from datetime import UTC, datetime

import numpy as np
import pytest

from core.archive import Archive, Status
from core.config import IngestConfig
from core.errors import FewcastError
from core.ingest import ingest
from core.satellite import area
from core.satellite.granule import Reason
from tests.core.satellite import imagers

STEP, SIDE = imagers.ABI_STEP, 200
AREA = "-95,22,-91,26"
ELSEWHERE = (-0.101332 + 2167 * STEP, 0.128212 - 2646 * STEP)  # on the one lattice that all boxes lie on
WEST = (-0.101332 + 830 * STEP, 0.128212 - 930 * STEP)
EAST = (WEST[0] + 90 * STEP, WEST[1] + 40 * STEP)


def settings(root, *corners, **changes) -> IngestConfig:
    """One granule a day at 06:00, whose north-west pixel looks there."""
    for day, corner in enumerate(corners):
        key = root / "granules" / imagers.goes_name("C13", f"2023{248 + day}0600274", "M1")
        key.parent.mkdir(parents=True)
        raw = np.random.default_rng(day).integers(900, 2000, (SIDE, SIDE), dtype=np.uint16)
        key.write_bytes(imagers.goes("C13", f"2023{248 + day}0600274", raw, corner=corner))
    base = {
        "system": "goes",
        "sector": "m1",
        "source": str(root / "granules"),
        "archive": str(root / "archive.zarr"),
        "channels": ["C13"],
        "area": AREA,
        "times": {"start": "2023-09-05", "end": "2023-09-08"},
        "origin": "2023-09-05",
        "cadence_minutes": 60,
        "years": 1,
    }
    return IngestConfig.model_validate(base | changes)


def run(config: IngestConfig):
    return ingest(config, clock=lambda: datetime(2023, 9, 9, tzinfo=UTC))


@pytest.mark.parametrize("block", [1, 3])
def test_an_archive_of_an_area_holds_all_of_it_wherever_the_box_stands_first(tmp_path, block):
    config = settings(tmp_path, ELSEWHERE, WEST, EAST, block=block)
    summary = run(config)
    assert (summary.written, summary.partial, summary.corrupt, summary.reasons["wrong_grid"]) == (2, 2, 1, 1)
    archive = Archive.open(config.archive)
    lon, lat = area.lonlat(archive.grid)
    bounds = area.bounds(AREA)
    for edge, found in zip(bounds, (lon.min(), lat.min(), lon.max(), lat.max()), strict=True):
        assert abs(edge - found) < 1.0, "a rectangle of scan angles around the area"
    slots = [archive.slot(np.datetime64(f"2023-09-0{day}T06:00")) for day in (5, 6, 7)]
    assert archive.status_of(slots).ravel().tolist() == [Status.CORRUPT, Status.PARTIAL, Status.PARTIAL]
    assert archive.reason[slots, 0].tolist() == [Reason.WRONG_GRID, Reason.PART_OF_AREA, Reason.PART_OF_AREA]
    height = archive.grid.crs["perspective_point_height"]
    for slot, corner in zip(slots[1:], (WEST, EAST), strict=True):
        x, y = (axis / height for axis in np.meshgrid(archive.grid.x, archive.grid.y))
        east, south = (x - corner[0]) / STEP, (corner[1] - y) / STEP
        near, far = (block - 1) / 2 - 0.1, SIDE - (block + 1) / 2 + 0.1
        inside = (east > near) & (east < far) & (south > near) & (south < far)
        assert 0.1 < inside.mean() < 0.95
        values = archive.read("brightness_temperature", [slot])[0, 0]
        np.testing.assert_array_equal(np.isfinite(values), inside)
    assert run(config).written == 0


def test_an_area_beyond_the_satellite_s_view_is_still_refused(tmp_path):
    with pytest.raises(FewcastError, match="outside the satellite's view"):
        run(settings(tmp_path, WEST, area="japan"))
