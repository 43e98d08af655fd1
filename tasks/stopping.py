"""A clean stop for long work: on SIGTERM, on a cancel from the UI and on Ctrl-C."""

import contextvars
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

LOOK_SECONDS = 0.5
Result = TypeVar("Result")
_LOGGER = logging.getLogger(__name__)


def run_until_stopped(work: Callable[[Callable[[], bool]], Result]) -> Result:
    """Run `work(stop)` in a thread; on a signal make `stop()` true, let the work finish, and raise the signal again.

    Prefect turns SIGTERM and a cancellation into an exception in the main thread, and it must keep its own handler
    to tell the two apart. So the main thread only waits. A second signal does not wait.
    """
    stop = threading.Event()
    done = threading.Event()  # Thread.join, once interrupted, takes the thread for ended
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work(stop.is_set))
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(body,), daemon=True, name="fewcast-work")
    thread.start()
    try:
        _wait(done)
    except BaseException:
        stop.set()
        _wait(done)
        for error in errors:  # the signal hides it, and may have come because of it: torchrun ends all ranks after one
            _LOGGER.warning("%s", error)
        raise
    if errors:
        raise errors[0]
    return results[0]


def _wait(done: threading.Event) -> None:
    """In short pieces: where the system hands a signal to another thread, nothing wakes this one to handle it."""
    while not done.wait(LOOK_SECONDS):
        pass
