"""The small files in which a stack remembers things. A full disk or a loss of power must not empty one."""

import os
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
