"""Calls on threads of this process, or on the workers of a Dask cluster, all of which may die.

Either is started by the first call, since most ingests of a live source find nothing new.
"""

import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from core.errors import AwayError, FewcastError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
Connect = Callable[[], "Client | None"]
# Calls handed out for each thread, one at work and the next; a cluster that is to grow must see more of them waiting.
CALLS_PER_THREAD, LEAST_ON_CLUSTER = 2, 128
# How long a cluster may be without a worker: one that grows on demand takes minutes to begin.
PATIENCE_SECONDS, LOOK_SECONDS = 600.0, 5.0
KEPT = "then run again: what was written is kept"


def connect_to(address: str) -> "Client":
    """A client of the scheduler at this address; `AwayError` where none answers in Dask's own time."""
    from distributed import Client  # takes a quarter of a second that an idle run does not need

    try:
        return Client(address)
    except OSError as error:
        raise AwayError(
            "the Dask scheduler does not answer",
            found=f"nothing at {address}",
            mend="start it, or unset DASK_SCHEDULER_ADDRESS to work on threads of this machine",
        ) from error


class Pool:
    """Runs calls elsewhere, `most` at a time, until `stack` ends; whatever becomes of a cluster is one `FewcastError`.

    Dask itself gives a call to other workers when one dies, until `distributed.scheduler.allowed-failures`.
    """

    def __init__(self, connect: Connect | None, threads: int, stack: ExitStack) -> None:
        self._connect, self._threads, self._stack = connect, threads, stack
        self._executor: Executor | None = None
        self.client: Client | None = None
        self.address = ""
        self.most = 1  # known once they have started

    def submit(self, call: Callable[..., T], *arguments: Any) -> "Future[T]":
        if self._executor is None:
            self._executor = self._start()
        with self._one_line(""):
            return self._executor.submit(call, *arguments)

    def _start(self) -> Executor:
        self.client = self._connect() if self._connect else None
        if self.client is None:
            self.most = CALLS_PER_THREAD * self._threads
            return self._stack.enter_context(ThreadPoolExecutor(self._threads, "pool"))
        self.address = str(self.client.scheduler.address) if self.client.scheduler else ""
        self.most = max(LEAST_ON_CLUSTER, CALLS_PER_THREAD * sum(self.client.nthreads().values()))
        executor: Executor = self.client.get_executor(pure=False)
        return executor

    def finished(self, futures: Collection["Future[T]"]) -> set["Future[T]"]:
        """Those that have ended, once one has."""
        begin = time.monotonic()
        while True:
            done, _ = wait(futures, LOOK_SECONDS if self.client else None, FIRST_COMPLETED)
            if done:
                return done
            with self._one_line(""):
                if self.client and self.client.nthreads():
                    begin = time.monotonic()
            if time.monotonic() - begin > PATIENCE_SECONDS:
                raise FewcastError(
                    "the Dask cluster has no workers",
                    found=f"none at {self.address} for {PATIENCE_SECONDS:.0f} seconds",
                    mend=f"start workers, {KEPT}",
                )

    def result(self, future: "Future[T]", what: str) -> T:
        """What the call returned; `what` it was for is said where the workers died of it."""
        with self._one_line(what):
            return future.result()

    def give_up(self, futures: Collection["Future[T]"]) -> list[T]:
        """Call off what has not begun, and return what the others returned; a cluster's are not waited for long.

        Dask may never end the future of a worker that died when its call was done and its result not yet fetched.
        """
        for future in futures:
            future.cancel()
        done, _ = wait(futures, LOOK_SECONDS if self.client else None)
        return [future.result() for future in done if not future.cancelled() and not future.exception()]

    @contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """Raise `FewcastError` for a cluster that is lost, and for a call that no worker outlived."""
        if self.client is None:
            yield
            return
        from distributed import KilledWorker  # as late as `connect_to` imports it
        from distributed.comm import CommClosedError

        try:
            yield
        except KilledWorker as error:
            raise FewcastError(
                "the workers of the Dask cluster keep dying",
                found=f"{error.allowed_failures + 1} died at {what}, the last of them {error.last_worker.address}",
                mend=f"look into their logs, give them more memory or fewer threads, {KEPT}",
            ) from error
        except Exception as error:
            # Without `what` nothing but the connection can have failed, even where Dask has not noticed yet.
            lost: tuple[type[Exception], ...] = (CancelledError, CommClosedError, *(() if what else (OSError,)))
            if not isinstance(error, lost) and self.client.status == "running":
                raise
            raise FewcastError(
                "the Dask scheduler was lost",
                found=f"no connection to {self.address}",
                mend=f"see that it runs, {KEPT}",
            ) from error
