"""The local stack knows its own processes, and ends no other. `make soak` brings the whole of it up and down."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from deployments.stack import Running, Service, Stack

TINY = Path(__file__).parents[1] / "flows" / "tiny.toml"


def test_what_it_started_it_finds_and_ends(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    stack._start(
        Service("sleeper", [sys.executable, "-c", "import time; time.sleep(100)"], address="x:1"), {**os.environ}
    )
    [entry] = Stack(tmp_path / "data").running().values()
    assert entry.address == "x:1"
    assert psutil.pid_exists(entry.pid)
    assert stack.down() == ["sleeper"]
    assert entry.process() is None
    assert stack.down() == []


def test_another_process_with_the_same_id_is_left_alone() -> None:
    mine = psutil.Process()
    entry = Running(mine.pid, mine.create_time(), "")
    assert entry.process() is not None
    assert replace(entry, started=entry.started - 60).process() is None


def test_keys_are_kept_from_others_and_stay(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    ports = {"prefect": 1, "mlflow": 2, "dask": 3, "s3": 4}
    first = stack._environment(ports)["AWS_SECRET_ACCESS_KEY"]
    assert len(first) == 40
    assert stack._environment(ports)["AWS_SECRET_ACCESS_KEY"] == first
    assert (stack.folder / "s3-keys.json").stat().st_mode & 0o077 == 0


@pytest.mark.soak
def test_the_whole_stack_comes_up_stays_and_goes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments.stack"]
    try:
        up = subprocess.run([*command, "up", "--config", str(TINY)], cwd=tmp_path, capture_output=True, text=True)
        assert up.returncode == 0, up.stderr
        first = Stack(tmp_path / "data").running()
        assert len(first) >= 6
        assert subprocess.run([*command, "up", "--config", str(TINY)], cwd=tmp_path).returncode == 0
        assert Stack(tmp_path / "data").running() == first
        family = [p for entry in first.values() for p in [entry.process(), *entry.process().children(recursive=True)]]
        assert sum(p.memory_info().rss for p in family) < 3e9
    finally:
        subprocess.run([*command, "down"], cwd=tmp_path, check=True)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
