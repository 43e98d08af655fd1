"""Waiting for what a server or a process of a test comes to, and ending it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import httpx


def until(condition: Callable[[], Any], seconds: float, *processes: "subprocess.Popen[bytes]") -> Any:
    """The first true answer of `condition`; an error once time is up or a process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except httpx.TransportError:
            pass
        assert all(process.poll() is None for process in processes)
        time.sleep(0.25)
    raise TimeoutError


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
