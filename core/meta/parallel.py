"""The meta-batch over threads and torchrun ranks: each differentiates its own episodes; finished gradients are summed.

Summing what is finished is exact for any meta-gradient. Wrapping the network instead (DistributedDataParallel) is
not, unless its forward runs the whole episode.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from core.bayes.gaussian import Tree
from core.errors import FewcastError
from core.meta.learner import Episodes, Learner
from core.meta.state import LearnerState

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it calls them lost; a crash is noticed at once."""


Item = TypeVar("Item")
Result = TypeVar("Result")


class RankLostError(FewcastError):
    """Another rank is gone: this one's state is as of the step before, and worth a checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. A process on its own is rank 0 of 1 and never communicates."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def sum(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum each tensor over the ranks: one collective a dtype, whatever the number of tensors.

        Every rank passes the same names, shapes and dtypes, and receives the same bits. Raises `RankLostError`.
        """
        if self.size == 1:
            return dict(tensors)
        result: dict[str, Tensor] = {}
        for dtype in sorted({tensor.dtype for tensor in tensors.values()}, key=str):
            group = {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}
            flat = torch.cat([tensor.reshape(-1) for tensor in group.values()])
            try:
                dist.all_reduce(flat)
            except RuntimeError as error:
                raise RankLostError(
                    f"rank {self.rank} of {self.size} lost the others",
                    found=str(error).splitlines()[0],
                    mend="see the first rank's error above this one, then run the same command again",
                ) from error
            parts = flat.split([tensor.numel() for tensor in group.values()])
            result |= {name: part.view_as(group[name]) for name, part in zip(group, parts, strict=True)}
        return {name: result[name] for name in tensors}

    def leave(self) -> None:
        """End the communication; without peers, nothing."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(device: torch.device | None = None) -> Ranks:
    """Join the ranks that torchrun started, by its environment; alone where it did not start this process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Ranks()
    backend = "nccl" if device is not None and device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT)
    return Ranks(dist.get_rank(), size)


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


def share(total: int, ranks: Ranks) -> range:
    """Indices among `total` episodes that belong to this rank; raises `FewcastError` unless all ranks get the same."""
    if total % ranks.size:
        raise FewcastError(
            f"a meta-batch of {total} episodes does not divide over {ranks.size} ranks",
            found=f"a remainder of {total % ranks.size}",
            mend="set train.meta_batch to a multiple of the ranks, or start another number of ranks",
        )
    return range(ranks.rank * total // ranks.size, (ranks.rank + 1) * total // ranks.size)
