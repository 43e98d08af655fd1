"""Which slots an ingest looks at, and which states of knowledge it looks at again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.archive import SERVED, Archive, Status
from core.archive.layout import axis_slots
from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.ingest.known import Known, known

# Of these nothing was read: until something has come, another look costs a line of a listing.
NOTHING_TO_READ = (Status.UNSEEN, Status.ABSENT)


class Plan(NamedTuple):
    """The span of an ingest, the statuses worth another look, and since when those are whose granules were read."""

    times: TimeRange
    again: frozenset[Status]
    recent: datetime
    frozen: bool
    """Whether frames that `archive repair` took out as frozen are: their granules are sound, and would be served."""
    shown: datetime
    """Until when the source is known to have published, or is meant to have."""

    def worth(self, known: Known, times: NDArray[np.datetime64]) -> NDArray[np.bool_]:
        """Whether slots of which this is known, at these times (T,), are worth a look (T, channel)."""
        recent = times >= np.datetime64(self.recent.replace(tzinfo=None), "s")
        again = np.isin(known.status, list(self.again)) & (np.isin(known.status, NOTHING_TO_READ) | recent[:, None])
        return np.where(known.frozen, self.frozen, again)


def plan(config: IngestConfig, archive: Archive | None, now: datetime) -> Plan:
    """What `config.mode` means at this moment; `FewcastError` if that is in the future or off the archive's time axis.

    backfill: the configured times, and in them what was never found.
    latest: the last `lookback_hours`, whose holes and corrupt granules get another look; and before them, but no longer
    than `catch_up_hours` ago, the holes from the first slot that was left unseen, or since the last that is served.
    After an outage the lookback counts from where it began: what was half arrived then has come since.
    repair: the configured times, and in them the statuses of `repair`.
    """
    again, frozen = {Status.UNSEEN, Status.ABSENT}, False
    times, recent, shown = config.times, config.times.start, config.times.end
    if config.mode == "latest":
        times, recent, shown = _latest(config, archive, now)
        again.add(Status.CORRUPT)
        if config.system == "himawari":  # its slots arrive in tiles, and may have been seen half arrived
            again.add(Status.PARTIAL)
    elif config.mode == "repair":
        again = {Status[name.upper()] for name in config.repair if name != "frozen"}
        frozen = "frozen" in config.repair
    if times.start > now:
        raise FewcastError(
            "ingest.times begins in the future",
            found=f"{times.start:%Y-%m-%d %H:%M} when the clock says {now:%Y-%m-%d %H:%M} UTC",
            mend="correct ingest.times, or this machine's clock",
        )
    _check_axis(times, config, archive)
    return Plan(times, frozenset(again), recent, frozen, shown)


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


def _latest(config: IngestConfig, archive: Archive | None, now: datetime) -> tuple[TimeRange, datetime, datetime]:
    """The span of mode latest, since when its slots are recent, and the newest slot of which something came."""
    lookback, newest = timedelta(hours=config.lookback_hours), None
    start = recent = now - lookback
    if archive is not None:
        earliest = min(recent, now - timedelta(hours=config.catch_up_hours))
        behind, newest = _behind(archive, config, earliest, now)
        if newest is not None:
            due = newest + timedelta(minutes=config.cadence_minutes)
            recent = max(min(recent, due - lookback), earliest)
        start = max(min(recent, behind), _moment(archive, 0))
    else:
        start = max(start, config.origin)
    if start >= now:
        raise FewcastError(
            "the archive's time axis begins in the future",
            found=f"ingest.origin {config.origin:%Y-%m-%d %H:%M} when the clock says {now:%Y-%m-%d %H:%M} UTC",
            mend="correct ingest.origin, or this machine's clock",
        )
    return TimeRange(start=start, end=now), recent, newest or start


def _behind(archive: Archive, config: IngestConfig, since: datetime, now: datetime) -> tuple[datetime, datetime | None]:
    """The first slot since then that was left unseen after one that was not, or the last that is served, or now;
    and the newest of which something came.
    """
    first, end = np.searchsorted(archive.times, [np.datetime64(t.replace(tzinfo=None), "s") for t in (since, now)])
    day = first // archive.slots_per_day
    begin = day * archive.slots_per_day
    status, _, sunless = known(archive, config, range(begin, end))
    begun = np.logical_or.accumulate((status != Status.UNSEEN).any(1))
    begun |= min(archive.days.recorded(), default=day) < day
    served = np.flatnonzero(np.isin(status, SERVED).any(1))
    since_served = np.arange(len(status)) >= max(served, default=0)
    behind = begin + np.flatnonzero(begun & (since_served | (status == Status.UNSEEN).any(1) | sunless))
    behind = behind[behind >= first]
    came = begin + np.flatnonzero(~np.isin(status, NOTHING_TO_READ).all(1))
    return (
        _moment(archive, behind[0]) if behind.size else now,
        _moment(archive, came[-1]) if came.size else None,
    )


def _moment(archive: Archive, slot: int) -> datetime:
    moment: datetime = archive.times[slot].astype("datetime64[s]").item()
    return moment.replace(tzinfo=UTC)


def last_complete(archive: Archive, config: IngestConfig, now: datetime) -> datetime | None:
    """The last slot up to now all of whose configured channels are served, of those that the archive has."""
    end = int(np.searchsorted(archive.times, np.datetime64(now.replace(tzinfo=None), "s"), side="right"))
    slot = archive.days.newest_complete([name for name in config.channels if name in archive.channels], end)
    return None if slot is None else _moment(archive, slot)


def days(times: TimeRange) -> Iterator[TimeRange]:
    """The range cut at midnight UTC."""
    start = times.start
    while start < times.end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        end = min(midnight, times.end)
        yield TimeRange(start=start, end=end)
        start = end


def slots_of(archive: Archive, config: IngestConfig, span: TimeRange) -> list[int]:
    """The archive's slots within a span that the configured cadence asks for; what lies off its axis is none."""
    cadence = timedelta(minutes=config.cadence_minutes)
    first, last = _moment(archive, 0), _moment(archive, -1)
    start = max(span.start, first)
    moment = config.origin - ((config.origin - start) // cadence) * cadence  # the first slot not before the start
    slots = []
    while moment < span.end and moment <= last:
        slots.append(archive.slot(moment))
        moment += cadence
    return slots
