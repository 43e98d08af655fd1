"""What a source has, day by day."""

import threading
from bisect import bisect_left
from datetime import datetime

import numpy as np

from core.config import IngestConfig, TimeRange
from core.ingest.plan import days
from core.satellite import source
from core.satellite.granule import Granule


class Listing:
    """The granules of each span of a range, listed when they are asked for, from several threads.

    A source whose folders do not tell one day from another is listed once: each day would ask for all of it again.
    """

    def __init__(self, config: IngestConfig, times: TimeRange) -> None:
        self._config, self._times = config, times
        parts = list(days(times))
        self._once = len(parts) > 1 and source.folders(config, parts[0]) == source.folders(config, parts[-1])
        self._lock = threading.Lock()
        self._whole: list[Granule] | None = None

    def __call__(self, span: TimeRange) -> list[Granule]:
        if not self._once:
            return source.list_granules(self._config, span)
        with self._lock:
            if self._whole is None:
                self._whole = source.list_granules(self._config, self._times)
        first, last = (bisect_left(self._whole, _moment(t), key=lambda g: g.time) for t in (span.start, span.end))
        return self._whole[first:last]


def _moment(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "s")
