"""Links to the newest of something, replaced at once for whoever follows them meanwhile."""

import os
from pathlib import Path


def point(link: Path, target: Path | str) -> None:
    """Let `link` lead to `target`, which is taken as it is: a name beside the link, or a whole path."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.partial")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(link)
