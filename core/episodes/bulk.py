"""Many shards at once: made durable together, since waiting for the disk after each would be most of the time."""

import os
from pathlib import Path

from core.archive.objects import LocalObjects, Objects


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


def settle(objects: Objects) -> None:
    """Return when all that was put before is durable."""
    if isinstance(objects, LocalObjects):
        os.sync()
