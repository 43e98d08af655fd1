"""A signal lets the work finish, and is raised all the same."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tasks.stopping import run_until_stopped


def test_the_work_s_result_and_errors_come_through() -> None:
    assert run_until_stopped(lambda stop: stop()) is False

    def fail(stop: Callable[[], bool]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_until_stopped(fail)


@pytest.mark.parametrize("to_another_thread", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_work_cleanly(
    number: signal.Signals, to_another_thread: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What ends the work meanwhile is said, since the signal may be only what follows from it."""
    finished = []

    def work(stop: Callable[[], bool]) -> None:
        if to_another_thread:
            time.sleep(0.1)  # until the main thread waits
            signal.pthread_kill(threading.get_ident(), number)
        else:
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        deadline = time.monotonic() + 30
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop()
        finished.append("checkpoint")
        raise ValueError("rank 0 of 2 lost the others")

    def raise_it(number: int, frame: object) -> None:
        raise KeyboardInterrupt  # as Prefect's own handler raises

    before = signal.signal(number, raise_it)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_stopped(work)
    finally:
        signal.signal(number, before)
    assert finished == ["checkpoint"]
    assert caplog.messages == ["rank 0 of 2 lost the others"]
