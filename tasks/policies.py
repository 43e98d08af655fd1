"""How tasks run under Prefect: what is retried, and what is cached.

Every stage skips what is already done and valid by itself, from its store and not from a hash of its arguments,
so Prefect's caching stays off: its keys see a task's own lines and would return stale results after a change in `core`.
Only steps that talk to a network are retried, and only on errors that pass.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from core.errors import FewcastError
from core.pool import connect_to

if TYPE_CHECKING:
    from distributed import Client


def worth_another_try(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """True for what a network or a disk does; the same input would fail again on everything else."""
    return isinstance(state.data, OSError)


def worth_resuming(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """True unless only the user can mend it; a rank of torchrun cannot begin again without the others."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 and not isinstance(state.data, FewcastError)


# The tag of what fills a GPU for long: the server lets one task that bears it run at a time. A nowcast bears none: it
# takes seconds and must not wait for a training, so a GPU that trains needs room for one beside it.
GPU = "gpu"

LOCAL: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
NETWORK: dict[str, Any] = {
    **LOCAL,
    "retries": 3,
    "retry_delay_seconds": [5, 20, 60],
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": worth_another_try,
}

# A segment of training starts from the last good checkpoint: whatever ended it, unless the user must act, try again.
SEGMENT: dict[str, Any] = {
    **LOCAL,
    "retries": 2,
    "retry_delay_seconds": 10,
    "retry_condition_fn": worth_resuming,
}


def dask_client() -> "AbstractContextManager[Client | None]":
    """A client of the cluster that Dask's own setting names (`DASK_SCHEDULER_ADDRESS`); None means local threads."""
    from dask import config

    address = config.get("scheduler-address", None)
    if not address:
        return nullcontext(None)
    return connect_to(address)
