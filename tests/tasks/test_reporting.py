"""Reports reach everyone who listens; one that fails stops nothing."""

import io
import re
from collections.abc import Mapping

import pytest
from rich.console import Console

from core.report import Silent
from tasks.reporting import Broadcast
from tasks.terminal import Terminal


class Broken(Silent):
    def progress(self, done: int, total: int, note: str = "") -> None:
        raise OSError("gone")

    def message(self, text: str) -> None:
        raise OSError("gone")


class Recorder(Silent):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.heard.append((done, total, note))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self.heard.append((dict(values), step))

    def message(self, text: str) -> None:
        self.heard.append(text)


def test_a_report_that_fails_is_logged_once_and_the_others_hear(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    report = Broadcast([Broken(), recorder])
    report.progress(1, 2, "x")
    report.progress(2, 2)
    report.message("done")
    report.metrics({"loss": 1.0}, 3)
    report.close()
    assert recorder.heard == [(1, 2, "x"), (2, 2, ""), "done", ({"loss": 1.0}, 3)]
    assert len([r for r in caplog.records if "Broken" in r.message]) == 1


def test_a_log_file_gets_few_lines_and_every_message() -> None:
    file = io.StringIO()
    terminal = Terminal("train", Console(file=file, width=60), every_seconds=3600)
    for step in range(100):
        terminal.progress(step, 100)
    terminal.message("[bold] text with /paths, unchanged and not wrapped " + 60 * "x")
    terminal.close()
    assert file.getvalue().splitlines() == ["train      [bold] text with /paths, unchanged and not wrapped " + 60 * "x"]


def test_a_terminal_gets_a_bar() -> None:
    file = io.StringIO()
    terminal = Terminal("train", Console(file=file, width=100, force_terminal=True))
    terminal.progress(3, 7, "loss 0.5")
    terminal.progress(7, 7, "loss 0.4")
    terminal.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "train" in plain
    assert "7/7" in plain
    assert "loss 0.4" in plain
