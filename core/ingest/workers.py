"""Who reads and writes frames: threads of this process, or a Dask cluster, asked for when there is a frame to read."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

Connect = Callable[[], "Client | None"]
# Slots handed out for each thread, one at work and the next; a cluster that is to grow must see more of them waiting.
SLOTS_PER_THREAD, LEAST_ON_CLUSTER = 2, 128


class Workers:
    """Started by the first job, since most runs of a live source find nothing new; ended with `stack`.

    `refused` is the error of a cluster that did not answer, which says nothing of the archive.
    """

    def __init__(self, connections: int, connect: Connect | None, stack: ExitStack) -> None:
        self._connections, self._connect, self._stack = connections, connect, stack
        self._executor: Executor | None = None
        self.most = 1  # jobs at a time; known once they have started
        self.refused: OSError | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Do it somewhere, soon."""
        if self._executor is None:
            self._executor = self._stack.enter_context(self._start())
        return self._executor.submit(function, *arguments)

    def _start(self) -> Executor:
        try:
            client = self._connect() if self._connect else None
        except OSError as error:
            self.refused = error
            raise
        if client:
            self.most = max(LEAST_ON_CLUSTER, SLOTS_PER_THREAD * sum(client.nthreads().values()))
            executor: Executor = client.get_executor(pure=False)
            return executor
        self.most = SLOTS_PER_THREAD * self._connections
        return ThreadPoolExecutor(self._connections, "ingest")
