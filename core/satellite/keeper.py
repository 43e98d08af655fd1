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

MOST_CHILDREN = 4
# An overloaded machine must not make a good file look damaged.
START_SECONDS, SILENCE_SECONDS = 180.0, 20.0
# Larger files are handed over by the pieces that are asked for, instead of being copied whole.
WHOLE_BYTES = 1 << 20
PIPE_BYTES = 1 << 20


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
        # A small granule fits the pipe at once, instead of in turns of 64 kB.
        self.process = subprocess.Popen(command, **pipe, pipesize=PIPE_BYTES, env=environment)
        self.waits = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self.waits.register(self.process.stdout, selectors.EVENT_READ)
        self.patience = START_SECONDS
        try:
            airlock.receive(self._read)
        except (EOFError, Silence) as error:
            self.end()
            raise FewcastError(
                "the process that reads HDF5 files does not start",
                found=f"exit status {self.process.returncode}",
                mend="check that `python -c 'import h5py'` works here, and that memory is left",
            ) from error
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


class Keeper:
    """Lends children, starts them when they are needed, and forgets those of a process that it was forked from."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner, self._slots = os.getpid(), threading.Semaphore(MOST_CHILDREN)
        self.idle: list[_Child] = []

    def ask(self, asked: dict[str, Any], content: Content) -> tuple[bytes, bytes]:
        """What the airlock says of a file; a file that kills or stops it is damaged."""
        if self._owner != os.getpid():
            self._begin()
        with self._slots:
            child = self._lent()
            try:
                result = child.ask(asked, content)
            except BaseException as error:
                child.end()  # it is dead, or waits in the middle of a frame
                if isinstance(error, EOFError):
                    how = "hung" if child.process.returncode == -signal.SIGPROF else "crashed"
                    raise CorruptGranule(Reason.DAMAGED, f"the HDF5 library {how} on it") from error
                if isinstance(error, Silence):
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
