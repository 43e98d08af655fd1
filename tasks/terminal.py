"""A stage's report on the terminal; apart from the others, since a command that starts no flow needs no Prefect."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from core.report import Silent


class Terminal(Silent):
    """A bar on a terminal; elsewhere (a log file, a pipe) a line now and then."""

    def __init__(self, stage: str, console: Console, every_seconds: float = 10.0) -> None:
        self._stage, self._console, self._every = stage, console, every_seconds
        self._spoken = time.monotonic()
        self._bar: Progress | None = None
        self._item: TaskID | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
            self._bar.start()

    def progress(self, done: int, total: int, note: str = "") -> None:
        if self._bar is not None:
            if self._item is None:
                self._item = self._bar.add_task(self._stage, total=total, note=note)
            self._bar.update(self._item, completed=done, total=total, note=note)
        elif time.monotonic() - self._spoken >= self._every:
            self._spoken = time.monotonic()
            self._console.print(f"{self._stage:<10} {done}/{total} {note}".rstrip(), highlight=False, markup=False)

    def message(self, text: str) -> None:
        self._console.print(f"{self._stage:<10} {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
