"""What an archive knows of some slots: all that decides whether an ingest looks at them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.archive import Archive, Status
from core.config import IngestConfig
from core.satellite.granule import Reason


class Known(NamedTuple):
    """Of each slot and configured channel (T, channel)."""

    status: NDArray[np.uint8]
    frozen: NDArray[np.bool_]
    """Taken out of service by `archive repair`, as it repeats the frame before."""


def known(archive: Archive, config: IngestConfig, slots: Iterable[int]) -> Known:
    """Read afresh, a day's object at a time; reasons only where something is corrupt."""
    slots = list(slots)
    columns = [archive.channels.index(name) for name in config.channels]
    status = archive.status_of(slots)[:, columns]
    frozen = status == Status.CORRUPT
    if frozen.any():
        frozen &= archive.days.at("reason", slots)[:, columns] == Reason.FROZEN
    return Known(status, frozen)
