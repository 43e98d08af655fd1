"""Which exact mode to take: the fastest whose graph fits in memory."""

import os
from pathlib import Path

import torch
from torch import Tensor

from core.bayes.gaussian import Tree
from core.meta.meta_gradient import TwoLevelProblem, differentiable_step

SHARE = 0.5  # of the free memory, since other ranks, the loader and fragmentation want theirs


def fastest_exact(problem: TwoLevelProblem, theta: Tree, at_once: int = 1) -> str:
    """`unrolled` where the graphs of M steps and the outer loss fit in half the free memory, else `checkpointed`.

    Recomputing costs a third more time on a CPU, less on a GPU; `mixed` needs no second reverse derivative, but its
    eager overhead makes it the slowest of the three (docs/core.md has the measurements).
    """
    if problem.steps == 0:
        return "unrolled"
    device = next(iter(theta.values())).device
    needed = at_once * (problem.steps + 1) * graph_bytes(problem, theta)
    return "unrolled" if needed < SHARE * free_bytes(device) else "checkpointed"


def graph_bytes(problem: TwoLevelProblem, theta: Tree) -> int:
    """What autograd keeps of one inner step when it must be differentiated again, by running one."""
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # alive until the end, so that no address is counted twice or missed

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in theta.items()}
        kept.extend(differentiable_step(problem, problem.start(leaves), leaves, 0).values())
    return sum(storages.values())


def free_bytes(device: torch.device) -> int:
    """Memory that a process may still take: of the device, or of the machine within its container's limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = [_machine_free_bytes()]
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free.append(int(text) - int(used.read_text()))
    return min(free)


def _machine_free_bytes() -> int:
    memory = Path("/proc/meminfo")
    if memory.exists():
        line = next(line for line in memory.read_text().splitlines() if line.startswith("MemAvailable"))
        return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # macOS names no available pages
