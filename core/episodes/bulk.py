"""Many shards at once: made durable together, since waiting for the disk after each would be most of the time."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from core.archive.objects import LocalObjects, Objects

CONNECTIONS = 16


def put_soon(objects: Objects, key: str, data: bytes) -> None:
    """Write an object that nothing refers to yet; it is durable only after `settle`.

    On a disk a power cut may tear it until then: whoever refers to it must check its digest or settle first.
    """
    if not isinstance(objects, LocalObjects):
        objects.put(key, data)
        return
    path = Path(objects.root, key)
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def for_each(objects: Objects, call: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call for every item: in turn on a disk, where the caller's own threads suffice, at once in a bucket."""
    if isinstance(objects, LocalObjects):
        for item in items:
            call(item)
        return
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(call, items))


def settle(objects: Objects, client: Any = None) -> None:
    """Return when all that was put before, here or by the workers of a Dask `client`, is durable."""
    if isinstance(objects, LocalObjects):
        os.sync()
        if client is not None:  # a worker's machine has a cache of its own, which outlives the worker
            client.run(os.sync, on_error="ignore")
