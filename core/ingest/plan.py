"""Which slots an ingest looks at, and which states of knowledge it looks at again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from core.archive import SERVED, Archive, Status
from core.archive.layout import axis_slots
from core.config import IngestConfig, TimeRange
from core.errors import FewcastError


class Plan(NamedTuple):
    """The span of an ingest and the statuses in it that are worth another look."""

    times: TimeRange
    again: frozenset[Status]


def plan(config: IngestConfig, archive: Archive | None, now: datetime) -> Plan:
    """What `config.mode` means at this moment; `FewcastError` if that is in the future or off the archive's time axis.

    backfill: the configured times, and in them what was never found.
    latest: from the last complete slot, but not longer than `catch_up_hours` ago, up to now; at least the last
    `lookback_hours`, whose holes and corrupt granules get another look.
    repair: the configured times, and in them the statuses of `repair`.
    """
    again = {Status.UNSEEN, Status.ABSENT}
    times = config.times
    if config.mode == "latest":
        times = _latest(config, archive, now)
        again.add(Status.CORRUPT)
        if config.system == "himawari":  # its slots arrive in tiles, and may have been seen half arrived
            again.add(Status.PARTIAL)
    elif config.mode == "repair":
        again = {Status[name.upper()] for name in config.repair}
    if times.start > now:
        raise FewcastError(
            "ingest.times begins in the future",
            found=f"{times.start:%Y-%m-%d %H:%M} when the clock says {now:%Y-%m-%d %H:%M} UTC",
            mend="correct ingest.times, or this machine's clock",
        )
    _check_axis(times, config, archive)
    return Plan(times, frozenset(again))


def _check_axis(times: TimeRange, config: IngestConfig, archive: Archive | None) -> None:
    cadence = timedelta(minutes=config.cadence_minutes)
    if archive is None:
        first, end = config.origin, config.origin + axis_slots(config.years, config.cadence_minutes) * cadence
    else:
        first, last = (moment.astype("datetime64[s]").item().replace(tzinfo=UTC) for moment in archive.times[[0, -1]])
        end = last + cadence
    if times.start <= first - cadence or times.end > end:
        raise FewcastError(
            "the times lie outside the archive's time axis",
            found=f"{times.start:%Y-%m-%d %H:%M} to {times.end:%Y-%m-%d %H:%M}, where the axis goes from "
            f"{first:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}",
            mend="correct ingest.times or this machine's clock, or make an archive with another origin or more years",
        )


def _latest(config: IngestConfig, archive: Archive | None, now: datetime) -> TimeRange:
    start = now - timedelta(hours=config.lookback_hours)
    if archive is not None:
        last = last_complete(archive, config, now)
        if last is not None:
            start = min(start, last)
        start = max(start, now - timedelta(hours=max(config.catch_up_hours, config.lookback_hours)))
        start = max(start, archive.times[0].astype("datetime64[s]").item().replace(tzinfo=UTC))
    else:
        start = max(start, config.origin)
    if start >= now:
        raise FewcastError(
            "the archive's time axis begins in the future",
            found=f"ingest.origin {config.origin:%Y-%m-%d %H:%M} when the clock says {now:%Y-%m-%d %H:%M} UTC",
            mend="correct ingest.origin, or this machine's clock",
        )
    return TimeRange(start=start, end=now)


def last_complete(archive: Archive, config: IngestConfig, now: datetime) -> datetime | None:
    """The last slot up to now all of whose configured channels are served; recorded days are read newest first."""
    columns = [archive.channels.index(name) for name in config.channels if name in archive.channels]
    for day in reversed(archive.days.recorded()):
        complete = np.isin(archive.days.day("status", day)[:, columns], SERVED).all(1)
        slots = np.flatnonzero(complete) + day * archive.slots_per_day
        times = archive.times[slots[slots < len(archive.times)]].astype("datetime64[s]")
        past = times[times <= np.datetime64(now.replace(tzinfo=None), "s")]
        if past.size:
            moment: datetime = past[-1].item()
            return moment.replace(tzinfo=UTC)
    return None


def days(times: TimeRange) -> Iterator[TimeRange]:
    """The range cut at midnight UTC."""
    start = times.start
    while start < times.end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        end = min(midnight, times.end)
        yield TimeRange(start=start, end=end)
        start = end


def slots_of(archive: Archive, config: IngestConfig, span: TimeRange) -> list[int]:
    """The archive's slots within a span that the configured cadence asks for."""
    cadence = timedelta(minutes=config.cadence_minutes)
    moment = config.origin - ((config.origin - span.start) // cadence) * cadence  # the first slot not before the span
    slots = []
    while moment < span.end:
        slots.append(archive.slot(moment))
        moment += cadence
    return slots
