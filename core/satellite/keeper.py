"""The parent's side of the airlock: a few child processes, replaced when a file has killed one."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from core.errors import FewcastError
from core.satellite import airlock
from core.satellite.granule import CorruptGranule, Reason

# More children than cores only take the cores from each other: an ingest on two cores takes 8 % longer with four.
# At least two, since a file may hang one.
MOST_CHILDREN = max(2, min(4, os.cpu_count() or 1))
# An overloaded machine must not make a good file look damaged.
START_SECONDS, SILENCE_SECONDS = 180.0, 20.0
# Larger files are handed over by the pieces that are asked for, instead of being copied whole.
WHOLE_BYTES = 1 << 20


class Content(Protocol):
    """A file's bytes, in memory or behind a URL."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    def piece(self, start: int, count: int) -> bytes:
        """These bytes, short only at the end of the file."""


class Memory:
    """Content that is all there."""

    def __init__(self, content: bytes) -> None:
        self.content, self.size = content, len(content)

    def piece(self, start: int, count: int) -> bytes:
        return self.content[start : start + count]


class Silence(Exception):  # noqa: N818 - what happened, not what was wrong
    """A child has not answered in time."""


class _Child:
    """One airlock process."""

    def __init__(self) -> None:
        # -P: the folder of the program must not become an import path.
        command = [sys.executable, "-P", str(Path(airlock.__file__))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            self.process = subprocess.Popen(command, **pipe, env=environment)
        except OSError as error:
            raise _does_not_start(str(error)) from error
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for stream in (self.process.stdin, self.process.stdout):
            airlock.widen(stream)
        self.waits = selectors.DefaultSelector()
        self.waits.register(self.process.stdout, selectors.EVENT_READ)
        self.patience = START_SECONDS
        try:
            airlock.receive(self._read)
        except (EOFError, Silence) as error:
            self.end()
            raise _does_not_start(f"exit status {self.process.returncode}") from error
        self.patience = SILENCE_SECONDS

    def ask(self, asked: dict[str, Any], content: Content) -> tuple[bytes, bytes]:
        """The answer's frame; `EOFError` where the child died of it, `Silence` where it no longer answers."""
        sink = self.process.stdin
        assert sink is not None
        try:
            airlock.send(sink, b"Q", json.dumps(asked).encode())
            if content.size <= WHOLE_BYTES and isinstance(content, Memory):
                airlock.send(sink, b"F", content.content)
            else:
                airlock.send(sink, b"R", json.dumps(content.size).encode())
            while True:
                kind, payload = airlock.receive(self._read)
                if kind != b"N":
                    return kind, payload
                start, count = json.loads(payload)
                airlock.send(sink, b"B", content.piece(start, min(count, content.size)))
        except BrokenPipeError as error:
            raise EOFError from error

    def _read(self, count: int) -> bytes:
        assert self.process.stdout is not None
        if not self.waits.select(self.patience):
            raise Silence
        return os.read(self.process.stdout.fileno(), count)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.waits.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _does_not_start(found: str) -> FewcastError:
    return FewcastError(
        "the process that reads HDF5 files does not start",
        found=found,
        mend="check that `python -c 'import h5py'` works here, and that memory, processes and open files are left",
    )


class Keeper:
    """Lends children, starts them when they are needed, and forgets those of a process that it was forked from."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner, self._slots = os.getpid(), threading.Semaphore(MOST_CHILDREN)
        self.idle: list[_Child] = []

    def ask(self, asked: dict[str, Any], content: Content) -> tuple[bytes, bytes]:
        """What the airlock says of a file; a file that stops it, or kills two of it, is damaged."""
        if self._owner != os.getpid():
            self._begin()
        with self._slots:
            try:
                return self._asked(self._lent(), asked, content)
            except EOFError:  # the system ends processes for want of memory, too
                with contextlib.suppress(EOFError):
                    return self._asked(_Child(), asked, content)
                raise CorruptGranule(Reason.DAMAGED, "the HDF5 library crashed on it") from None

    def _asked(self, child: _Child, asked: dict[str, Any], content: Content) -> tuple[bytes, bytes]:
        """The answer of this child, which is idle then; `EOFError` where it died, other than of taking too long."""
        try:
            result = child.ask(asked, content)
        except BaseException as error:
            child.end()  # it is dead, or waits in the middle of a frame
            if isinstance(error, Silence) or child.process.returncode == -signal.SIGPROF:
                raise CorruptGranule(Reason.DAMAGED, "the HDF5 library hung on it") from error
            raise
        self.idle.append(child)
        return result

    def _lent(self) -> _Child:
        while True:
            try:
                child = self.idle.pop()
            except IndexError:
                return _Child()
            if child.process.poll() is None:
                return child
            child.end()  # it died idle: somebody else's doing


KEEPER = Keeper()
