"""The memory of an ingest of full-disk crops: flat in the range, and below what is promised, over all its processes."""

import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from core.archive import Archive, Status
from core.config import IngestConfig
from tests.core.memory import peak_megabytes
from tests.core.satellite import makers

PROMISED_MB = 1500
# Resolution, chunk side and slots of each band; the files of the finest have 750 MB, those of the coarsest 47.
BANDS = {"ir105": (1, 550, 8), "ir112": (1, 550, 8), "vi004": (2, 1100, 8), "vi006": (4, 2200, 4)}
SIDE = 5500


def make_disks(root: Path) -> None:
    """Full disks of noise that hardly compresses."""
    rng = np.random.default_rng(0)
    for band, (finer, chunk, slots) in BANDS.items():
        shape = np.broadcast_to(np.uint16(0), (SIDE * finer, SIDE * finer))
        packed = zlib.compress(rng.integers(400, 400 + 1024, (chunk, chunk), dtype=np.uint16).tobytes(), 1)
        for slot in range(slots):
            time = f"20230905{slot // 6:02d}{slot % 6}0"
            path = root / makers.gk2a_name(band, time, "fd")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(makers.gk2a(band, time, shape, sector="fd", chunks=(chunk, chunk), packed=packed))


def peak_of(settings: IngestConfig) -> float:
    code = (
        "import sys; from core.config import IngestConfig; from core.ingest import ingest\n"
        "ingest(IngestConfig.model_validate_json(sys.argv[1]))"
    )
    return peak_megabytes([sys.executable, "-c", code, settings.model_dump_json()])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("area", ["korea", "100,-10,150,45"])
def test_full_disk_crops_stay_under_the_promised_memory(tmp_path_factory, area):
    root = tmp_path_factory.getbasetemp() / "disks"
    if not root.exists():
        make_disks(root)
    archive = tmp_path_factory.mktemp("archive") / "a.zarr"

    def settings(end: str) -> IngestConfig:
        values = {
            "source": str(root), "archive": str(archive), "channels": list(BANDS), "sector": "fd", "area": area,
            "times": {"start": "2023-09-05", "end": end}, "origin": "2023-09-05", "cadence_minutes": 10, "years": 1,
            "connections": 4,  # as many as the shorter range has slots
        }  # fmt: skip
        return IngestConfig.model_validate(values)

    half = peak_of(settings("2023-09-05T00:40"))
    shutil.rmtree(archive)
    whole = peak_of(settings("2023-09-05T01:20"))
    shape = Archive.open(str(archive)).shape
    served = (Archive.open(str(archive)).status == Status.COMPLETE).sum()
    print(f"\n{area}: {shape[0]} x {shape[1]} pixels, {len(BANDS)} bands: {half:.0f} MB for 4 slots, {whole:.0f} for 8")
    assert served == sum(slots for _, _, slots in BANDS.values())
    assert whole < PROMISED_MB
    assert whole < 1.25 * half
