"""How much memory a command takes. (`ru_maxrss` will not do: a child starts with the peak of what started it.)"""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def peak_megabytes(command: Sequence[str], every_seconds: float = 0.1) -> float:
    """The greatest sum, over a command and all its children, of the memory that is theirs (proportional set size)."""
    peak = 0.0
    with subprocess.Popen(command, cwd=ROOT) as child:
        while child.poll() is None:
            try:
                first = psutil.Process(child.pid)
                used = sum(one.memory_full_info().pss for one in (first, *first.children(recursive=True)))
                peak = max(peak, used / 1e6)
            except psutil.Error:  # one of them has just ended
                pass
            time.sleep(every_seconds)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return peak
