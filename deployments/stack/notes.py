"""The small files in which a stack remembers things. A full disk or a loss of power must not empty one."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file beside and let it take the place of the old one; nothing is done where the text is the same."""
    if path.exists() and path.read_text() == text:
        return
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Keep a second command off a stack while one is at work; without `wait` it says whether that is so.

    The kernel gives the lock back when its holder dies, however it dies; what the holder starts does not inherit it.
    """
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"fewcast: waits for another command that is at work on {folder}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield True
