"""The arithmetic of the network: float32, TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]


class _Tf32:
    """torch's flags for TF32, which are the process's and not a thread's: set by the first to come, reset by the last.

    Who wants the other arithmetic meanwhile waits.
    """

    def __init__(self) -> None:
        self._free, self._users, self._before = Condition(), 0, _flags()

    def acquire(self, allowed: bool) -> None:
        with self._free:
            self._free.wait_for(lambda: not self._users or _flags() == (allowed, allowed))
            if not self._users:
                self._before = _flags()
                _set_flags(allowed, allowed)
            self._users += 1

    def release(self) -> None:
        with self._free:
            self._users -= 1
            if not self._users:
                _set_flags(*self._before)
                self._free.notify_all()


def _flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def _set_flags(matmul: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolutions


_TF32 = _Tf32()


@contextmanager
def precision(name: Precision, device: torch.device) -> Iterator[None]:
    """Run convolutions and matrix products as `name` says; parameters, losses and the KL stay in their own type.

    The trap: torch allows TF32 in cuDNN's convolutions by default, so `float32` has to forbid it. Casts are not cached,
    since a cached cast would tie one inner step's graph to another's weights.
    """
    _TF32.acquire(name == "tf32")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16", cache_enabled=False):
            yield
    finally:
        _TF32.release()
