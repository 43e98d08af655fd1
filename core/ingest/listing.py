"""What a source has, day by day."""

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from datetime import datetime

import numpy as np

from core.config import IngestConfig, TimeRange
from core.ingest.plan import days
from core.satellite import source
from core.satellite.granule import Granule

# Days are asked for a little ahead, and so in no strict order.
LISTINGS_KEPT = 2


class Listing:
    """The granules of each span of a range, listed when they are asked for, from several threads.

    Days that a source's folders do not tell apart are listed once: each would ask for all of them again.
    """

    def __init__(self, config: IngestConfig, times: TimeRange) -> None:
        self._config, self._days = config, list(days(times))
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], list[Granule]] = OrderedDict()

    def __call__(self, span: TimeRange) -> list[Granule]:
        """The granules of a span within one day."""
        day = bisect_right(self._days, span.start, key=lambda it: it.start) - 1
        folders = self._folders(day)
        if not any(self._folders(other) == folders for other in (day - 1, day + 1)):
            return source.list_granules(self._config, span)
        with self._lock:
            whole = self._listed(day)
        first, last = (bisect_left(whole, _moment(t), key=lambda g: g.time) for t in (span.start, span.end))
        return whole[first:last]

    def _listed(self, day: int) -> list[Granule]:
        """The granules of all days around one that lie in its folders."""
        for (first, last), found in self._kept.items():
            if first <= day <= last:
                return found
        folders, first, last = self._folders(day), day, day
        while self._folders(first - 1) == folders:
            first -= 1
        while self._folders(last + 1) == folders:
            last += 1
        times = TimeRange(start=self._days[first].start, end=self._days[last].end)
        self._kept[first, last] = source.list_granules(self._config, times)
        if len(self._kept) > LISTINGS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[first, last]

    def _folders(self, day: int) -> list[str] | None:
        return source.folders(self._config, self._days[day]) if 0 <= day < len(self._days) else None


def _moment(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "s")
