"""What a source has, day by day."""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict

import numpy as np

from core.config import IngestConfig, TimeRange
from core.ingest.plan import days
from core.satellite import cf_zarr, source
from core.satellite.granule import Granule

# Days are asked for a little ahead, and so in no strict order.
LISTINGS_KEPT = 2
TEXTS = ("url", "channel", "etag")


class Listing:
    """The granules of each span of a range, listed when they are asked for, from several threads.

    Days that a source's folders do not tell apart are listed once: each would ask for all of them again. A Zarr store,
    which tells its times at once, is asked again each month, so that what is kept does not grow with its length.
    """

    def __init__(self, config: IngestConfig, times: TimeRange) -> None:
        self._config, self._days = config, list(days(times))
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], _Rows] = OrderedDict()

    def __call__(self, span: TimeRange) -> list[Granule]:
        """The granules of a span within one day."""
        day = bisect_right(self._days, span.start, key=lambda it: it.start) - 1
        folders = self._folders(day)
        if not any(self._folders(other) == folders for other in (day - 1, day + 1)):
            return source.list_granules(self._config, span)
        with self._lock:
            return self._listed(day).between(span)

    def _listed(self, day: int) -> "_Rows":
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
        self._kept[first, last] = _Rows(source.list_granules(self._config, times))
        if len(self._kept) > LISTINGS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[first, last]

    def _folders(self, day: int) -> list[str] | None:
        if not 0 <= day < len(self._days):
            return None
        whole = self._days[day]
        return [f"{whole.start:%Y-%m}"] if cf_zarr.is_store(self._config) else source.folders(self._config, whole)


class _Rows:
    """Granules by time, as columns of bytes: objects would take several times the memory."""

    def __init__(self, granules: list[Granule]) -> None:
        self._times = np.array([g.time for g in granules], "datetime64[s]")
        self._sizes = np.array([g.size for g in granules], np.int64)
        self._texts = [np.array([os.fsencode(getattr(g, name)) for g in granules]) for name in TEXTS]
        self._parts = {i: g.parts for i, g in enumerate(granules) if g.parts}

    def between(self, span: TimeRange) -> list[Granule]:
        moments = [np.datetime64(t.replace(tzinfo=None), "s") for t in (span.start, span.end)]
        return [self._granule(i) for i in range(*np.searchsorted(self._times, moments))]

    def _granule(self, i: int) -> Granule:
        url, channel, etag = (os.fsdecode(column[i]) for column in self._texts)
        return Granule(url, channel, self._times[i], int(self._sizes[i]), etag, self._parts.get(i, ()))
