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
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache

import numpy as np

from core.config import IngestConfig
from core.satellite import airlock, remote
from core.satellite.granule import Granule, Reason, RefusedGranule, UnavailableGranule

# A process takes most of a second of a core to start: an idle run, or one that catches up on an hour, needs none.
STARTS_AFTER = 32
IDLE_SECONDS, LOOK_SECONDS = 60.0, 0.5
FAILURES = {failure.__name__: failure for failure in (UnavailableGranule, RefusedGranule)}


class _Line:
    """Two pipes to one thread of the other process."""

    def __init__(self) -> None:
        (answer, answers), (asks, ask) = os.pipe(), os.pipe()
        self.theirs = asks, answers
        self._ask, self._answer = os.fdopen(ask, "wb"), os.fdopen(answer, "rb", buffering=0)
        airlock.widen(answers)

    def receive(self) -> tuple[bytes, bytes]:
        """One frame; `EOFError` where the process has gone."""
        return airlock.receive(self._answer.read)

    def fetch(self, granule: Granule, config: IngestConfig) -> bytes:
        """What `remote.fetch` returns or raises over there; `EOFError` where the process has gone."""
        told = [granule.url, granule.channel, str(granule.time), granule.size, granule.etag]
        try:
            airlock.send(self._ask, b"G", json.dumps([told, config.model_dump_json()]).encode())
        except BrokenPipeError as error:
            raise EOFError from error
        kind, payload = self.receive()
        if kind == b"X":
            name, reason, text = json.loads(payload)
            raise FAILURES[name](Reason(reason), text)
        return payload

    def close(self) -> None:
        self._answer.close()
        with contextlib.suppress(BrokenPipeError):
            self._ask.close()


class _Process:
    """The other process, ready, and its lines; raises `EOFError` or `OSError` where it does not start."""

    def __init__(self, lines: int) -> None:
        self.environment = _environment()
        self._ended = False
        self._idle = [_Line() for _ in range(lines)]
        theirs = [descriptor for line in self._idle for descriptor in line.theirs]
        command = [sys.executable, "-P", "-m", "core.satellite.courier", *map(str, theirs)]
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, pass_fds=theirs)
        except OSError:
            self._close()
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        try:
            self._idle[0].receive()
        except EOFError:
            self.end()
            raise

    def fetch(self, granule: Granule, config: IngestConfig) -> bytes | None:
        """What `remote.fetch` does; None where all lines are at work, `EOFError` where the process has gone."""
        try:
            line = self._idle.pop()
        except IndexError:
            return None
        try:
            return line.fetch(granule, config)
        finally:
            self._idle.append(line)
            if self._ended:
                self._close()

    def end(self) -> None:
        """Kill it, and whoever waits for it gets `EOFError`; may be called again."""
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
        self._fetched = 0
        self._process: _Process | None = None
        self._starts: threading.Thread | None = None

    def fetch(self, granule: Granule, config: IngestConfig) -> bytes:
        """The whole file, verified; raises `UnavailableGranule` as `remote.fetch` does."""
        if self._owner != os.getpid():  # forked: the process is the parent's
            self._begin()
        process = self._process
        if process is None:
            self._count(config)
        elif process.environment != _environment():
            self._give_up(process)
        else:
            try:
                content = process.fetch(granule, config)
            except EOFError:
                self._give_up(process)
            else:
                if content is not None:
                    return content
        return remote.fetch(granule, config)

    def end(self) -> None:
        """Begin anew, without a process."""
        if self._starts is not None:
            self._starts.join()
        self._give_up(self._process)

    def _count(self, config: IngestConfig) -> None:
        with self._lock:
            self._fetched += 1
            if self._fetched == STARTS_AFTER:
                self._starts = threading.Thread(target=self._start, args=(config.connections,), daemon=True)
                self._starts.start()

    def _start(self, lines: int) -> None:
        with contextlib.suppress(OSError, EOFError):  # the work goes on without it, and is not tried again
            self._process = _Process(lines)

    def _give_up(self, process: _Process | None) -> None:
        with self._lock:
            if process is not self._process:
                return
            self._process, self._fetched = None, 0
        if process is not None:
            process.end()


COURIER = Courier()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


# -- the other process


def _serve(asks: int, answers: int, idle_since: dict[int, float]) -> None:
    """Fetch what is asked for on one pair of pipes."""
    source, sink = os.fdopen(asks, "rb"), os.fdopen(answers, "wb")
    while True:
        idle_since[asks] = time.monotonic()
        _, asked = airlock.receive(source.read)
        idle_since[asks] = math.inf
        airlock.send(sink, *_answer(asked))


def _answer(asked: bytes) -> tuple[bytes, bytes]:
    (url, channel, slot, size, etag), config = json.loads(asked)
    try:
        return b"B", remote.fetch(Granule(url, channel, np.datetime64(slot), size, etag), _config(config))
    except UnavailableGranule as error:
        return b"X", json.dumps([type(error).__name__, error.reason, error.text]).encode()


@lru_cache(maxsize=8)
def _config(told: str) -> IngestConfig:
    return IngestConfig.model_validate_json(told)


def _until_gone(asks: int, answers: int, idle_since: dict[int, float]) -> None:
    """Serve; whatever ends it ends the process, and the asking side fetches for itself and sees why."""
    try:
        _serve(asks, answers, idle_since)
    finally:
        os._exit(0)


def main() -> None:
    import s3fs  # noqa: F401 - slow to load, and the greeting says that all is ready

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the asking side says when it is over
    asking, descriptors = os.getppid(), [int(argument) for argument in sys.argv[1:]]
    pairs = list(zip(descriptors[::2], descriptors[1::2], strict=True))
    with os.fdopen(pairs[0][1], "wb", closefd=False) as sink:
        airlock.send(sink, b"H", b"")
    idle_since = {asks: time.monotonic() for asks, _ in pairs}
    for pair in pairs:
        threading.Thread(target=_until_gone, args=(*pair, idle_since), daemon=True).start()
    while os.getppid() == asking and any(time.monotonic() - since < IDLE_SECONDS for since in idle_since.values()):
        time.sleep(LOOK_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
