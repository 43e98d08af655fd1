"""The meta-batch over torchrun ranks: each differentiates its own episodes; finished gradients are summed.

Summing what is finished is exact for any meta-gradient. Wrapping the network instead (DistributedDataParallel) is
not, unless its forward runs the whole episode.

Ranks talk over two groups. Whatever is small goes over gloo, which notices a dead peer at once. The gradient alone goes
over a group of the device's own: NCCL does not notice, and waits. So none begins there before gloo says that all are
here, and none takes what it brought before gloo says that all have it. On CPUs both are gloo, by the same code.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from core.errors import FewcastError

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before it calls them lost; a crash is noticed at once."""
GRADIENT_TIMEOUT = timedelta(minutes=1)
"""How long a sum of gradients may take, which all ranks begin together."""
_LOOK_SECONDS = 1.0  # how soon a rank that waits for the gradients looks whether the others live
_POLL_SECONDS = 1e-4


class RankLostError(FewcastError):
    """Another rank is gone: this one's state is as of the step before, and worth a checkpoint."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. A process on its own is rank 0 of 1 and never communicates."""

    rank: int = 0
    size: int = 1
    gradients: dist.ProcessGroup | None = None  # the default group is gloo's

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def sum(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum each of some small tensors over the ranks, in the CPU's memory.

        Every rank passes the same names, shapes and dtypes, and receives the same bits. Raises `RankLostError`.
        """
        if self.size == 1:
            return dict(tensors)
        result: dict[str, Tensor] = {}
        for group in _by_dtype(tensors):
            flat = torch.cat([tensor.reshape(-1).cpu() for tensor in group.values()])
            try:
                dist.all_reduce(flat)
            except RuntimeError as error:
                raise self._lost(str(error)) from error
            result |= _unpacked(flat, group)
        return {name: result[name] for name in tensors}

    def sum_gradient(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sum each leaf over the ranks where it lies: one collective a dtype, whatever the number of leaves.

        To be called right after a `sum`, which says that all ranks are here. None takes the sum before all have it.
        Raises `RankLostError` soon after another rank dies, also where the device's own sum would wait for it.
        """
        if self.size == 1:
            return dict(gradient)
        result: dict[str, Tensor] = {}
        for group in _by_dtype(gradient):
            flat = torch.cat([leaf.reshape(-1) for leaf in group.values()])
            try:
                work = dist.all_reduce(flat, group=self.gradients, async_op=True)
                self._wait_together(work)
                work.wait()  # not before: until then the device's own stream, and so the state, waits for no one
            except RuntimeError as error:
                raise self._lost(str(error)) from error
            result |= _unpacked(flat, group)
        return {name: result[name] for name in gradient}

    def require_same_start(self, digest: str) -> None:
        """Raise `FewcastError` unless all ranks pass the same hexadecimal digest of what they start from."""
        own = torch.tensor(int(digest[:8], 16), dtype=torch.float64)
        if self.sum({"digest": own})["digest"] != self.size * own:
            raise FewcastError(
                "the ranks do not start from the same state",
                found=f"digest {digest[:8]} in rank {self.rank} of {self.size}, and another elsewhere",
                mend="let all of them see the same train.run, train.episodes and train.fork",
            )

    def _wait_together(self, work: dist.Work) -> None:
        """Until all ranks have what they wait for; the others' lives are looked after meanwhile."""
        deadline = time.monotonic() + GRADIENT_TIMEOUT.total_seconds()
        while True:
            look = time.monotonic() + _LOOK_SECONDS
            while not work.is_completed() and time.monotonic() < look:
                time.sleep(_POLL_SECONDS)
            waiting = torch.tensor(float(not work.is_completed()))
            if not self.sum({"waiting": waiting})["waiting"]:
                return
            if time.monotonic() > deadline:
                raise self._lost(f"no sum of the gradients after {GRADIENT_TIMEOUT.seconds} seconds")

    def _lost(self, found: str) -> RankLostError:
        return RankLostError(
            f"rank {self.rank} of {self.size} lost the others",
            found=found.splitlines()[0],
            mend="see the first rank's error above this one, then run the same command again",
        )


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks that torchrun started, by its environment; alone where it did not start this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    # Or NCCL's watchdog ends the process at an error, before it has written its checkpoint.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
    dist.init_process_group("gloo", timeout=TIMEOUT)
    on_gpu = device.type == "cuda"
    gradients = dist.new_group(
        backend="nccl" if on_gpu else "gloo", timeout=GRADIENT_TIMEOUT, device_id=device if on_gpu else None
    )
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), gradients)
    except BaseException:
        with suppress(RuntimeError):  # what ended the work says how it ended
            gradients.abort()  # or a sum that was begun would be waited for
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _by_dtype(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for dtype in sorted({tensor.dtype for tensor in tensors.values()}, key=str):
        yield {name: tensor for name, tensor in tensors.items() if tensor.dtype == dtype}


def _unpacked(flat: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}


def share(total: int, ranks: Ranks) -> range:
    """Indices among `total` episodes that belong to this rank; raises `FewcastError` unless all ranks get the same."""
    if total % ranks.size:
        raise FewcastError(
            f"a meta-batch of {total} episodes does not divide over {ranks.size} ranks",
            found=f"a remainder of {total % ranks.size}",
            mend="set train.meta_batch to a multiple of the ranks, or start another number of ranks",
        )
    return range(ranks.rank * total // ranks.size, (ranks.rank + 1) * total // ranks.size)
