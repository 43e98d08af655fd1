"""The arithmetic of the network: float32, TF32 or bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bf16"]


@contextmanager
def precision(name: Precision, device: torch.device) -> Iterator[None]:
    """Run convolutions and matrix products as `name` says; parameters, losses and the KL stay in their own type.

    The trap: torch allows TF32 in cuDNN's convolutions by default, so `float32` has to forbid it. Casts are not cached,
    since a cached cast would tie one inner step's graph to another's weights.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=name == "bf16", cache_enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
