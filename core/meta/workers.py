"""The meta-batch over threads: each differentiates its own episodes, with the bits of one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TypeVar

from torch import Tensor

from core.bayes.gaussian import Tree
from core.meta.learner import Episodes, Learner
from core.meta.state import LearnerState

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that differentiate episodes at a time, each with a learner and a network of its own.

    Small networks keep one core busy, not two: episodes side by side are faster than one episode on more threads.
    A network of its own, since a functional call swaps its parameters in place. Gradients are added in the order of
    the episodes, so the result is the same bits for any number of workers.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._learners = list(learners)
        self._idle: SimpleQueue[Learner] = SimpleQueue()
        for learner in learners:
            self._idle.put(learner)
        self._pool = ThreadPoolExecutor(len(learners), "episodes") if len(learners) > 1 else None

    def gradient(self, state: LearnerState, batch: Episodes, *, seed: int) -> tuple[Tree, Tree]:
        """`Learner.gradient`: sums over the batch."""
        if self._pool is None:
            return self._learners[0].gradient(state, batch, seed=seed)
        rows = range(len(batch.ids))
        found = self.map(lambda learner, row: learner.gradient(state, _row(batch, row), seed=seed), rows)
        gradient, metrics = next(found)
        for more_gradient, more_metrics in found:
            gradient = {name: leaf + more_gradient[name] for name, leaf in gradient.items()}
            metrics = {name: value + more_metrics[name] for name, value in metrics.items()}
        return gradient, metrics

    def map(self, call: Callable[[Learner, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`call(learner, item)` for each item, in order, as many at a time as there are learners."""
        if self._pool is None:
            return (call(self._learners[0], item) for item in items)

        def with_a_learner(item: Item) -> Result:
            learner = self._idle.get()
            try:
                return call(learner, item)
            finally:
                self._idle.put(learner)

        return self._pool.map(with_a_learner, items)

    def with_gradient(self, mode: str) -> "Workers":
        """The same workers, which then differentiate in this mode; these are closed."""
        self.close()
        return Workers([learner.with_gradient(mode) for learner in self._learners])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class _Windows:
    x: Tensor
    y: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Episode:
    support: _Windows
    query: _Windows
    ids: tuple[int, ...]


def _row(batch: Episodes, row: int) -> _Episode:
    support, query = (
        _Windows(*(part[row : row + 1] for part in (windows.x, windows.y, windows.mask)))
        for windows in (batch.support, batch.query)
    )
    return _Episode(support, query, (batch.ids[row],))
