"""The stack under a satellite with faults, kills and outages. `make rehearsal` does ten slots of it."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "soak.py"


@pytest.mark.soak
@pytest.mark.timeout(9000)
def test_two_hundred_slots() -> None:
    command = [sys.executable, str(SOAK), "--slots=200", "--seconds=30", "--kills=5"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=8900)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.splitlines()[-1].startswith("soak: 200 slots")
