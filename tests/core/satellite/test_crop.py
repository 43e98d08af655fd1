"""A crop of a full disk touches what lies under it, and a whole disk streams through bounded memory."""

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from core.errors import FewcastError
from core.satellite import area, remote, source
from tests.core.satellite import makers, test_gk2a

ROOT = Path(__file__).parents[3]
SIDE = 2200


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The middle of a full disk, in gzip chunks, and its folder."""
    root = tmp_path_factory.mktemp("disk")
    raw = np.random.default_rng(0).integers(4000, 4064, (SIDE, SIDE), dtype=np.uint16)
    path = root / makers.gk2a_name("ir105", test_gk2a.TIME, "fd")
    path.parent.mkdir(parents=True)
    path.write_bytes(makers.gk2a("ir105", test_gk2a.TIME, raw, sector="fd", chunks=(200, 200)))
    return root


def config(root, **changes):
    times = {"start": "2023-09-05T12:30", "end": "2023-09-05T12:31"}
    return test_gk2a.config(source=str(root), sector="fd", times=times, **changes)


def test_a_crop_by_blocks_equals_the_crop_of_the_whole_and_fetches_little(disk, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK_BYTES", 1 << 16)
    opened = []
    real = remote.Blocks
    monkeypatch.setattr(remote, "Blocks", lambda *arguments: opened.append(real(*arguments)) or opened[-1])
    whole = config(disk, area="125,5,130,10", block=2)
    ranged = config(disk, area="125,5,130,10", block=2, whole_megabytes=1)
    (granule,) = source.list_granules(whole)
    grid = source.archive_grid([granule], whole)
    assert max(grid.shape) < 200
    expected = source.read_frame(granule, whole, grid).values
    assert not opened
    np.testing.assert_array_equal(source.read_frame(granule, ranged, grid).values, expected)
    (blocks,) = opened
    assert 0 < blocks.fetched_bytes < granule.size / 5
    lon, lat = area.lonlat(grid)
    assert abs(np.nanmin(lon) - 125) < 0.2
    assert abs(np.nanmax(lat) - 10) < 0.2


def test_an_area_off_the_disk_is_one_clear_line(disk):
    settings = config(disk, area="conus")
    granules = source.list_granules(settings)
    with pytest.raises(FewcastError, match="outside the satellite's view") as caught:
        source.archive_grid(granules, settings)
    assert "\n" not in str(caught.value)


PROBE = """
import re, sys
from pathlib import Path
from core.config import IngestConfig
from core.satellite import source

def peak():  # of this process alone; ru_maxrss would begin with that of the one it was started from
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

config = IngestConfig.model_validate_json(sys.argv[1])
(granule,) = source.list_granules(config)
grid = source.archive_grid([granule], config)
before = peak()
frame = source.read_frame(granule, config, grid)
print(grid.shape[0], before, peak())
"""


def probe(settings):
    """(rows of the archive, megabytes before, megabytes at the peak) of reading the one granule in its own process."""
    command = [sys.executable, "-c", PROBE, settings.model_dump_json()]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=True)
    rows, before, peak = map(int, child.stdout.split())
    return rows, before / 1024, peak / 1024


def test_reading_a_crop_by_blocks_needs_little_memory(disk):
    rows, before, peak = probe(config(disk, area="125,5,130,10", whole_megabytes=1))
    assert 200 < rows < 400
    assert peak - before < 60


@pytest.mark.soak
def test_a_whole_half_kilometre_disk_stays_under_the_promised_memory(tmp_path):
    """22000 x 22000 pixels are 1.9 GB as float32; they stream through in bands."""
    side = 22_000
    path = tmp_path / makers.gk2a_name("vi006", test_gk2a.TIME, "fd")
    path.parent.mkdir(parents=True)
    chunk = np.random.default_rng(0).integers(400, 1400, (500, 500), dtype=np.uint16)
    raw = np.broadcast_to(np.uint16(0), (side, side))
    packed = zlib.compress(chunk.tobytes())
    path.write_bytes(makers.gk2a("vi006", test_gk2a.TIME, raw, sector="fd", chunks=chunk.shape, packed=packed))
    rows, _, peak = probe(config(tmp_path, channels=["vi006"], block=4, whole_megabytes=1))
    print(f"\npeak {peak:.0f} MB for {side} x {side} pixels; file {path.stat().st_size / 1e6:.0f} MB")
    assert rows == side // 4
    assert peak < 1500
