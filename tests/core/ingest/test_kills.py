"""What a kill, a full disk and a second writer cost: nothing."""

import errno
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.archive import Archive, Status
from core.archive.lock import exclusive
from core.archive.objects import LocalObjects
from core.config import IngestConfig
from core.errors import FewcastError
from tests.core.ingest.world import config, contents, run

CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from core.config import IngestConfig
from core.ingest import ingest
settings = IngestConfig.model_validate_json(Path(sys.argv[1]).read_text())
print("ready", flush=True)
ingest(settings, clock=lambda: datetime(2024, 3, 2, 12, tzinfo=UTC))
"""


def kill_and_finish(root: Path, settings: IngestConfig, rounds: int, seed: int) -> None:
    """Kill an ingest at `rounds` random moments, then let one end."""
    (root / "config.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-c", CHILD, str(root / "config.json")]
    rng = random.Random(seed)
    for _ in range(rounds):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(rng.uniform(0, 0.4))
        child.kill()
        child.wait()
        child.stdout.close()
        if Archive.exists(settings.archive):
            archive = Archive.open(settings.archive)
            for slot in np.flatnonzero((archive.status == Status.COMPLETE).any(1)):
                archive.digest([slot])
                archive.read("brightness_temperature", [slot])
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_killed_at_random_moments_it_ends_bit_identical(root, rounds):
    settings = config(root, archive=str(root / "killed.zarr"))
    undisturbed = config(root)
    run(undisturbed)
    kill_and_finish(root, settings, rounds, seed=rounds)
    assert contents(settings.archive) == contents(undisturbed.archive)


def test_a_full_disk_is_one_clear_line_and_nothing_recorded_is_lost(root, monkeypatch):
    settings = config(root)
    real = LocalObjects.put
    left = [40]

    def put(self, key, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, key, data)

    monkeypatch.setattr(LocalObjects, "put", put)
    with pytest.raises(FewcastError, match=r"no space left for the archive .*free some space and run again"):
        run(settings)
    monkeypatch.undo()
    run(settings)
    whole = contents(settings.archive)
    shutil.rmtree(settings.archive)
    run(settings)
    assert contents(settings.archive) == whole


def test_a_second_ingest_is_kept_out(root):
    settings = config(root, times={"start": "2024-03-01T21:00", "end": "2024-03-01T22:00"})
    run(settings)
    with exclusive(LocalObjects(settings.archive)), pytest.raises(FewcastError, match="is being written"):
        run(config(root))
