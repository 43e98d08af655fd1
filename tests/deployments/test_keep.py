"""One command at a time is at work on a stack; `keep` brings back what died, and undoes no `down`."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from core.errors import FewcastError
from deployments.stack import Stack, processes, stack
from deployments.stack.notes import alone
from deployments.stack.processes import Service

SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
NAMES = ("prefect", "mlflow", "worker-fewcast-cpu", "worker-fewcast-gpu")


@pytest.fixture
def sleepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stack whose services sleep."""
    made = [Service(name, SLEEP) for name in NAMES]
    plan = SimpleNamespace(databases=list, servers=lambda: made[:2], workers=lambda: made[2:], postgres=None, auth=None,
                           url=lambda name: f"http://{name}")  # fmt: skip
    monkeypatch.setattr(Stack, "plan", lambda self, profile="": plan)
    monkeypatch.setattr(stack, "crash_the_dead", lambda *_: None)
    monkeypatch.setenv("FEWCAST_AUTH", "someone:a long password")
    ours = Stack(tmp_path / "data")
    yield ours
    ours.down()


def kill(name: str, ours: Stack) -> None:
    process = psutil.Process(ours.running()[name].pid)
    process.kill()
    process.wait(10)


def test_two_at_once_start_each_service_once(
    sleepers: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slowly(*words, **options) -> "subprocess.Popen[bytes]":
        time.sleep(0.3)
        return subprocess.Popen(*words, **options)

    slow = SimpleNamespace(Popen=slowly, DEVNULL=subprocess.DEVNULL)
    monkeypatch.setattr(processes, "subprocess", slow)
    both = [threading.Thread(target=Stack(sleepers.data).up, kwargs={"deploy": False}) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [*sleepers.running()] == [*NAMES]
    assert len(sleepers.processes.marked()) == len(NAMES)
    assert capsys.readouterr().err == f"fewcast: waits for another command that is at work on {sleepers.folder}\n"


def test_what_died_comes_back_and_nothing_else_is_touched(sleepers: Stack) -> None:
    assert sleepers.keep() == [], "it was never up"
    sleepers.up(deploy=False)
    before = sleepers.running()
    assert sleepers.keep() == []
    kill("mlflow", sleepers)
    with alone(sleepers.folder):
        assert sleepers.keep() == [], "another is at work"
    assert sleepers.keep() == ["mlflow"]
    after = sleepers.running()
    assert {*after} == {*NAMES}
    assert {name for name in NAMES if after[name] != before[name]} == {"mlflow"}


def test_after_a_reboot_all_of_it_comes_back(sleepers: Stack) -> None:
    sleepers.up(deploy=False)
    for name in NAMES:
        kill(name, sleepers)
    note = sleepers.folder / "state.json"
    other = {name: {"pid": os.getpid(), "started": 1.0, "address": "", "born": "another boot 7"} for name in NAMES}
    note.write_text(json.dumps(other))  # a stranger has the id by now
    assert sleepers.keep() == [*NAMES]


def test_what_was_ended_stays_so(sleepers: Stack) -> None:
    sleepers.up(deploy=False)
    assert len(sleepers.down()) == len(NAMES)
    assert sleepers.keep() == []
    assert sleepers.processes.marked() == []


def test_a_part_that_was_asked_for_is_not_kept(sleepers: Stack) -> None:
    sleepers.up(only=["prefect"], deploy=False)
    kill("prefect", sleepers)
    assert sleepers.keep() == []


def test_nothing_comes_back_without_the_password_that_it_had(sleepers: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect would let everybody in."""
    sleepers.up(deploy=False)
    kill("prefect", sleepers)
    monkeypatch.delenv("FEWCAST_AUTH")
    with pytest.raises(FewcastError, match=r"prefect died.*found FEWCAST_AUTH not set here"):
        sleepers.keep()
    assert "prefect" not in sleepers.running()
    monkeypatch.setenv("FEWCAST_AUTH_FILE", "somewhere")
    assert sleepers.keep() == ["prefect"]


def test_the_command_says_nothing_where_there_is_nothing_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments.stack", "keep", "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
