"""Where a stage's report goes: the terminal, the run's log and progress artifact in Prefect, and MLflow."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from rich.console import Console

from core.report import Report, Silent
from tasks.terminal import Terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The command line puts its console here; a worker has none and stays quiet.
TERMINAL: contextvars.ContextVar[Console | None] = contextvars.ContextVar("fewcast_terminal", default=None)


class Reporting:
    """Give the report of one stage to everyone who listens, as a context manager that yields a `Report`."""

    def __init__(self, stage: str, *more: Report) -> None:
        console = TERMINAL.get()
        terminal: list[Report] = [] if console is None else [Terminal(stage, console)]
        self._all = Broadcast([*terminal, PrefectRun(stage), *more])

    def __enter__(self) -> Report:
        return self._all

    def __exit__(self, *_: object) -> None:
        self._all.close()


class Broadcast:
    """Several reports as one. One that fails is logged once and the work goes on."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports
        self._failed: set[int] = set()

    def _each(self, call: Callable[[Report], Any]) -> None:
        for report in self._reports:
            try:
                call(report)
            except Exception as error:
                if id(report) not in self._failed:
                    self._failed.add(id(report))
                    logging.getLogger(__name__).warning("%s is not told: %s", type(report).__name__, error)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._each(lambda report: report.progress(done, total, note))

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda report: report.metrics(values, step))

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        self._each(lambda report: report.figure(name, figure, step))

    def message(self, text: str) -> None:
        self._each(lambda report: report.message(text))

    def close(self) -> None:
        self._each(lambda report: getattr(report, "close", lambda: None)())


class PrefectRun(Silent):
    """The run's log and its progress artifact, which is written at most every few seconds.

    Work in other threads may report too, so the calls go through a copy of the task's own context.
    """

    def __init__(self, stage: str, every_seconds: float = 5.0) -> None:
        self._stage, self._every = stage, every_seconds
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._artifact: UUID | None = None
        self._written = time.monotonic()
        self._latest: tuple[float, str] | None = None

    def progress(self, done: int, total: int, note: str = "") -> None:
        self._latest = (100.0 * done / max(total, 1), f"{self._stage}: {done} of {total} {note}".rstrip())
        if time.monotonic() - self._written >= self._every and self._lock.acquire(blocking=False):
            try:
                self._written = time.monotonic()
                self._context.run(self._write, *self._latest)
            finally:
                self._lock.release()

    def message(self, text: str) -> None:
        with self._lock:
            self._context.run(lambda: get_run_logger().info(text))

    def close(self) -> None:
        with self._lock:
            if self._artifact is not None and self._latest is not None:
                self._context.run(self._write, *self._latest)

    def _write(self, percent: float, description: str) -> None:
        if self._artifact is None:
            key = f"{self._stage}-progress"
            artifact = create_progress_artifact(progress=percent, key=key, description=description)
            self._artifact = artifact if isinstance(artifact, UUID) else None
        else:
            update_progress_artifact(self._artifact, progress=percent, description=description)
