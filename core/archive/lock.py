"""One ingest at a time on one archive, safe after kill -9."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.archive.objects import LocalObjects, Objects
from core.errors import FewcastError

LOCK = ".lock"


@contextmanager
def exclusive(objects: Objects) -> Iterator[None]:
    """Hold the archive for writing; `FewcastError` at once if another process holds it.

    On a disk it is an `flock`, which the kernel gives back when its holder dies, however it dies.
    """
    if isinstance(objects, LocalObjects):
        with _flock(objects.root):
            objects.sweep()
            yield
    else:
        yield


@contextmanager
def _flock(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with open(root / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise held(str(root), file.read().strip() or "another process") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def held(url: str, holder: str) -> FewcastError:
    return FewcastError(f"the archive {url} is being written", found=holder, mend="wait until it ends, then run again")
