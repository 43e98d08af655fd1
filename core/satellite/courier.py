"""Downloads by a process of its own: a client of S3 is so much Python that decoding would wait for it.

Run as a program, with the descriptors of pairs of pipes, it fetches what it is asked for on them, one file a pair at a
time, until the asking side has gone or has asked for nothing for a while. The frames are the airlock's. In: `G` a
granule and its settings (JSON). Out: `B` the file's bytes, or `X` (JSON) why they could not be fetched; first of all
`H`, on the first pair, when it is ready.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from core.satellite import airlock, remote
from core.satellite.granule import Granule, Reason, RefusedGranule, UnavailableGranule

# A process takes most of a second of a core to start: an idle run, or one that catches up on an hour, needs none.
STARTS_AFTER = 32
IDLE_SECONDS, LOOK_SECONDS = 60.0, 0.5
FAILURES = {failure.__name__: failure for failure in (UnavailableGranule, RefusedGranule)}


class _Told(NamedTuple):
    """The settings of a download (`remote.Access`) as they are sent: those of an ingest take long to load."""

    source: str
    endpoint_url: str
    anonymous: bool
    connections: int
    timeout_seconds: float
    retries: int


_told = attrgetter(*_Told._fields)


class _Line:
    """Two pipes to one thread of the other process."""

    def __init__(self, ask: int, answer: int) -> None:
        self._ask, self._answer = os.fdopen(ask, "wb"), os.fdopen(answer, "rb", buffering=0)

    def receive(self) -> tuple[bytes, bytes]:
        """One frame; `EOFError` where the process has gone."""
        return airlock.receive(self._answer.read)

    def ask(self, granule: Granule, config: remote.Access) -> tuple[bytes, bytes]:
        """The answer's frame. After any exception the line must be closed: an answer may be on its way."""
        told = [granule.url, granule.channel, str(granule.time), granule.size, granule.etag]
        airlock.send(self._ask, b"G", json.dumps([told, _told(config)]).encode())
        return self.receive()

    def close(self) -> None:
        self._answer.close()
        with contextlib.suppress(OSError):  # what is left to be sent has nowhere to go
            self._ask.close()


class _Process:
    """The other process, ready, and its lines; raises `EOFError` or `OSError` where it does not start."""

    def __init__(self, lines: int) -> None:
        self.environment = _environment()
        self._ended = False
        pipes = _pipes(2 * lines)
        pairs = list(zip(pipes[::2], pipes[1::2], strict=True))
        self._idle = [_Line(ask, answer) for (_, ask), (answer, _) in pairs]
        theirs = [end for (asks, _), (_, answers) in pairs for end in (asks, answers)]
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "core.satellite.courier", *map(str, theirs)]
        # A session of its own: it ends with this process, and not by a Ctrl-C that this one may outlive.
        own: Any = {"stdin": subprocess.DEVNULL, "pass_fds": theirs, "start_new_session": True}
        try:
            self._process = subprocess.Popen(command, env=environment, **own)
        except OSError:
            self._close()
            raise
        finally:
            for end in theirs:
                os.close(end)
        try:
            self._idle[0].receive()
        except EOFError:
            self.end()
            raise

    def ask(self, granule: Granule, config: remote.Access) -> tuple[bytes, bytes] | None:
        """The answer's frame; None where all lines are at work."""
        try:
            line = self._idle.pop()
        except IndexError:
            return None
        try:
            answer = line.ask(granule, config)
        except BaseException:
            line.close()
            raise
        self._idle.append(line)
        if self._ended:
            self._close()
        return answer

    def wait(self) -> None:
        """Return when it has ended."""
        self._process.wait()

    def end(self) -> None:
        """Kill it: whoever waits for it gets `EOFError`. May be called again."""
        self._process.kill()
        self._process.wait()
        self._ended = True
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


class Courier:
    """Fetches whole files: here at first, and by a process of its own once it turns out that there are many.

    A process that has ended is missed by nobody: what it has not brought is fetched here. The same holds where the
    credentials in the environment are others than those it was started with.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner, self._lock = os.getpid(), threading.Lock()
        self._fetched, self._last = 0, 0.0
        self._process: _Process | None = None
        self._starts: threading.Thread | None = None
        self.started = threading.Event()

    def fetch(self, granule: Granule, config: remote.Access) -> bytes:
        """The whole file, verified; raises `UnavailableGranule` as `remote.fetch` does."""
        if self._owner != os.getpid():  # forked: the process is the parent's
            self._begin()
        answer, process = None, self._process
        if process is None:
            self._count(config)
        elif process.environment != _environment():
            self._give_up(process)
        else:
            try:
                answer = process.ask(granule, config)
            except (EOFError, OSError, MemoryError):
                self._give_up(process)
        if answer is None:
            return remote.fetch(granule, config)
        kind, payload = answer
        if kind == b"X":
            name, reason, text = json.loads(payload)
            raise FAILURES[name](Reason(reason), text)
        return payload

    def end(self) -> None:
        """Begin anew, without a process."""
        if self._starts is not None:
            self.started.wait()
            self._give_up(self._process)
            self._starts.join()
        self._fetched = 0

    def _count(self, config: remote.Access) -> None:
        with self._lock:
            now = time.monotonic()
            self._fetched = 1 if now - self._last > IDLE_SECONDS else self._fetched + 1
            self._last = now
            if self._fetched == STARTS_AFTER:
                self.started.clear()
                self._starts = threading.Thread(target=self._run, args=(config.connections,), daemon=True)
                self._starts.start()

    def _run(self, lines: int) -> None:
        """Start it, and see it off when it ends, idle or killed."""
        try:
            process = self._process = _Process(lines)
        except (OSError, EOFError):  # the work goes on without it
            return
        finally:
            self.started.set()
        process.wait()
        self._give_up(process)

    def _give_up(self, process: _Process | None) -> None:
        with self._lock:
            if process is None or process is not self._process:
                return
            self._process, self._fetched = None, 0
        process.end()


COURIER = Courier()


def _pipes(count: int) -> list[tuple[int, int]]:
    """(read, write) ends of so many pipes, all of them or, where descriptors are short, none."""
    made: list[tuple[int, int]] = []
    try:
        for _ in range(count):
            made.append(os.pipe())
            airlock.widen(made[-1][1])
    except OSError:
        for end in (end for pair in made for end in pair):
            os.close(end)
        raise
    return made


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


# -- the other process


def _serve(asks: int, answers: int, idle_since: dict[int, float]) -> None:
    """Fetch what is asked for on one pair of pipes until it is closed; what else ends it, the asking side meets too."""
    try:
        with contextlib.suppress(OSError, EOFError), os.fdopen(asks, "rb") as source, os.fdopen(answers, "wb") as sink:
            while True:
                idle_since[asks] = time.monotonic()
                _, asked = airlock.receive(source.read)
                idle_since[asks] = math.inf
                airlock.send(sink, *_answer(asked))
    finally:
        idle_since[asks] = -math.inf


def _answer(asked: bytes) -> tuple[bytes, bytes]:
    (url, channel, slot, size, etag), config = json.loads(asked)
    try:
        return b"B", remote.fetch(Granule(url, channel, np.datetime64(slot), size, etag), _Told(*config))
    except UnavailableGranule as error:
        return b"X", json.dumps([type(error).__name__, error.reason, error.text]).encode()


def main() -> None:
    import s3fs  # noqa: F401 - slow to load, and the greeting says that all is ready

    asking, descriptors = os.getppid(), [int(argument) for argument in sys.argv[1:]]
    pairs = list(zip(descriptors[::2], descriptors[1::2], strict=True))
    with contextlib.suppress(BrokenPipeError), os.fdopen(pairs[0][1], "wb", closefd=False) as sink:
        airlock.send(sink, b"H", b"")
    idle_since = {asks: time.monotonic() for asks, _ in pairs}
    for pair in pairs:
        threading.Thread(target=_serve, args=(*pair, idle_since), daemon=True).start()
    while os.getppid() == asking and any(time.monotonic() - since < IDLE_SECONDS for since in idle_since.values()):
        time.sleep(LOOK_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
