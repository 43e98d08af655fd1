"""What an archive knows of some slots: all that decides whether an ingest looks at them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.archive import SERVED, Archive, Status
from core.config import IngestConfig
from core.satellite import sun
from core.satellite.granule import Reason


class Known(NamedTuple):
    """status, frozen: of each slot and configured channel (T, channel); sunless: of each slot (T,)."""

    status: NDArray[np.uint8]
    frozen: NDArray[np.bool_]
    """Taken out of service by `archive repair`, as it repeats the frame before."""
    sunless: NDArray[np.bool_]
    """The sun's elevation, which is kept, is not served beside a channel that is."""


def known(archive: Archive, config: IngestConfig, slots: Iterable[int]) -> Known:
    """Read afresh, a day's object at a time; reasons only where something is corrupt."""
    slots = list(slots)
    columns = [archive.channels.index(name) for name in config.channels]
    whole = archive.status_of(slots)
    status = whole[:, columns]
    frozen = status == Status.CORRUPT
    if frozen.any():
        frozen &= archive.days.at("reason", slots)[:, columns] == Reason.FROZEN
    sunless = np.zeros(len(slots), bool)
    if config.sun_angle:
        there = np.isin(whole[:, archive.channels.index(sun.CHANNEL)], SERVED)
        sunless = np.isin(status, SERVED).any(1) & ~there
    return Known(status, frozen, sunless)
