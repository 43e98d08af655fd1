"""Files and folders brought to the disk itself, so that what is renamed afterwards outlasts a loss of power."""

import os
from pathlib import Path


def to_disk(path: Path | str) -> None:
    """Wait until a file, or the names that a folder holds, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree_to_disk(folder: Path) -> None:
    """Wait for a folder with all that is in it."""
    for path in (*folder.rglob("*"), folder):
        to_disk(path)
