"""The stack under a satellite with faults, kills and outages: a sample here, the whole by `make soak`."""

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "soak" / "soak.py"


def run(*options: str, seconds: float) -> str:
    command = [sys.executable, str(SOAK), *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(1500)
def test_ten_slots_with_a_killed_worker_a_killed_server_and_s3_away() -> None:
    last = run("--slots=10", "--seconds=4", "--kills=1", "--away=6", "--push", "--patience=600", seconds=1400)
    assert last.startswith("soak: 10 slots")
    assert "3 kills" in last


@pytest.mark.soak
@pytest.mark.timeout(9000)
def test_two_hundred_slots() -> None:
    assert run(seconds=8900).startswith("soak: 200 slots")
