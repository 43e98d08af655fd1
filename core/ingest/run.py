"""List, read what is missing, write frames, then say what is known of each slot."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from core.archive import SERVED, Archive, Status, Stored
from core.archive.lock import exclusive
from core.archive.matching import require
from core.archive.objects import open_objects
from core.archive.unwritable import one_line_if_unwritable
from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.ingest.absences import Absences
from core.ingest.ahead import ahead
from core.ingest.known import known
from core.ingest.listing import Listing
from core.ingest.plan import days, plan, slots_of
from core.ingest.slot import Job, Outcome, read_slot
from core.pool import Connect, Pool
from core.report import Report, Silent
from core.satellite import remote, source, sun
from core.satellite.granule import Granule, Reason, UnavailableGranule

# How long finished frames may wait to be recorded: what a killed ingest does again.
RECORD_AFTER_SECONDS, RECORD_AFTER_FRAMES = 2.0, 128
# Days that are listed before the one in work is through, so that workers never wait at midnight.
DAYS_LISTED = 2


@dataclass(frozen=True)
class IngestSummary:
    """What one ingest did, counted in frames (one slot of one channel)."""

    archive: str
    written: int
    partial: int
    skipped: int
    corrupt: int
    absent: int
    unavailable: int
    out_of_range_pixels: int
    reasons: dict[str, int] = field(default_factory=dict)


def ingest(
    config: IngestConfig,
    *,
    report: Report | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    connect: Connect | None = None,
) -> IngestSummary:
    """Bring a source into the archive as `config.mode` says, and only what the archive does not have yet.

    Frames are read and written by the workers of the client that `connect` gives, or by threads; it is asked when there
    is a frame to read, and not before. Their status is recorded here, after them.
    A corrupt granule becomes status 3 with its reason, a slot without one status 4 after `grace_minutes`, and the
    run goes on. Raises `FewcastError` where there is nothing to read, nothing readable, another archive's grid, a full
    disk, another ingest at work, a source of which nothing can be fetched, or a cluster whose workers all die.
    """
    return _Run(config, report or Silent(), clock()).go(connect)


class _Run:
    def __init__(self, config: IngestConfig, report: Report, now: datetime) -> None:
        self.config, self.report, self.now = config, report, now
        self.archive: Archive | None = None
        self.kinds = {name: source.kind(config, name) for name in config.channels}
        if config.sun_angle:
            self.kinds[sun.CHANNEL] = "solar_elevation"
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.pending: list[Stored] = []
        self.unreached: set[int] = set()
        self.unavailable: UnavailableGranule | None = None
        self.seen = 0
        self.last_record = time.monotonic()

    def go(self, connect: Connect | None) -> IngestSummary:
        config = self.config
        with one_line_if_unwritable(config.archive), ExitStack() as stack:
            pool = Pool(connect, config.connections, stack)
            if Archive.exists(config.archive):
                self._hold(stack)
                self.archive = Archive.open(config.archive, "r+")
                require(self.archive, channels=self.kinds, origin=config.origin, cadence_minutes=config.cadence_minutes)
            self.plan = plan(config, self.archive, self.now)
            self.absences = Absences(config, self.plan.shown, self.now)
            self._drain(self._jobs(stack), pool)
        if not self.seen and not self.counts["skipped"]:
            raise FewcastError(
                f"{config.source} holds no granule to ingest",
                found=f"none of {', '.join(config.channels)} from {self.plan.times.start:%Y-%m-%d %H:%M} "
                f"to {self.plan.times.end:%Y-%m-%d %H:%M}",
                mend="check ingest.source, sector, channels, times, origin and cadence_minutes",
            )
        self._raise_if_away()
        if config.mode == "latest" and self.absences.silence:
            self.report.message(self.absences.silence)
        done = {n: self.counts[n] for n in ("written", "partial", "skipped", "corrupt", "absent", "unavailable")}
        return IngestSummary(
            config.archive, **done, out_of_range_pixels=self.counts["out_of_range"], reasons=dict(self.reasons)
        )

    def _hold(self, stack: ExitStack) -> None:
        self.still_mine = stack.enter_context(exclusive(open_objects(self.config.archive)))

    # -- what to do

    def _jobs(self, stack: ExitStack) -> Iterator[Job]:
        """The slots to read, in order, so that memory does not grow with the range; the end of a day is no barrier."""
        waiting: list[tuple[TimeRange, list[Granule]]] = []
        refusal: FewcastError | None = None
        matched = False
        spans = ((day, span) for day in days(self.plan.times) if (span := self._wanted(day)))
        listing = Listing(self.config, self.plan.times)
        for (day, _), granules in ahead(spans, lambda it: listing(it[1]), DAYS_LISTED):
            self.seen += len(granules)
            self.absences.listed(granules)
            waiting.append((day, granules))
            if not granules:
                if self.archive is not None:
                    yield from self._day(*waiting.pop())
                continue
            if not matched:
                try:
                    self._match([granule for _, found in waiting for granule in found], stack)
                except source.NothingReadableError as error:  # a later day may tell
                    refusal = error.away or refusal or error
                    continue
                matched = True
            for item in waiting:
                yield from self._day(*item)
            waiting.clear()
        if refusal is not None and self.archive is None:
            raise refusal
        for item in waiting if self.archive is not None else ():
            yield from self._day(*item)

    def _match(self, granules: list[Granule], stack: ExitStack) -> None:
        """Make the archive, or see that the one that is there is of this grid, these channels and this time axis.

        An archive made with the same settings has the same grid, and no granule need be read to know it.
        """
        config = self.config
        made_from = {name: getattr(config, name) for name in ("system", "source", "sector", "area", "block")}
        if self.archive is not None and self.archive.made_from == made_from:
            grid = self.archive.grid
        else:
            grid = source.archive_grid(granules, config)
        if self.archive is None:
            self._hold(stack)
        self.archive = Archive.create(
            config.archive,
            grid=grid,
            channels=self.kinds,
            origin=config.origin,
            cadence_minutes=config.cadence_minutes,
            years=config.years,
            made_from=made_from,
        )

    def _wanted(self, day: TimeRange) -> TimeRange | None:
        """The part of a day from the first to the last slot worth a look; None, and counted as skipped, if none is."""
        if self.archive is None:
            return day
        slots = slots_of(self.archive, self.config, day)
        state = known(self.archive, self.config, slots)
        looked_at = np.flatnonzero(self.plan.worth(state, self.archive.times[slots]).any(1) | state.sunless)
        if slots and not looked_at.size:
            self.counts["skipped"] += state.status.size
            self._progress(len(slots))
            return None
        if not slots:
            return day
        first, last = (self.archive.times[slots[i]].astype("datetime64[s]").item() for i in looked_at[[0, -1]])
        return TimeRange(start=first, end=last + timedelta(seconds=1))

    def _day(self, day: TimeRange, granules: list[Granule]) -> Iterator[Job]:
        archive = self.archive
        assert archive is not None
        at = {(found.time, found.channel): found for found in granules}
        slots = slots_of(archive, self.config, day)
        state = known(archive, self.config, slots)
        worth = self.plan.worth(state, archive.times[slots])
        for slot, row, looks, sunless in zip(slots, state.status, worth, state.sunless, strict=True):
            moment = archive.times[slot].astype("datetime64[s]")
            wanted: list[Granule] = []
            served: dict[str, Status] = {}
            for name, status, look in zip(self.config.channels, row, looks, strict=True):
                granule = at.get((moment, name))
                if not look:
                    self.counts["skipped"] += 1
                elif granule is not None:
                    wanted.append(granule)
                    if status in SERVED:
                        served[name] = Status(status)
                elif status == Status.UNSEEN:
                    self.absences.add(slot, moment, name)
            if wanted or sunless:
                yield Job(slot, tuple(wanted), served, bool(sunless), self.still_mine.name)
            else:
                self._progress(1)
        self._note_absent()

    # -- doing it

    def _drain(self, jobs: Iterator[Job], pool: Pool) -> None:
        """Keep a bounded number of jobs at work, and record what has become of them as they end."""
        running: dict[Future[Outcome], Job] = {}
        try:
            for job in jobs:
                assert self.archive is not None
                while len(running) >= pool.most:
                    self._collect(running, pool)
                running[pool.submit(read_slot, self.archive, job, self.config)] = job
            while running:
                self._collect(running, pool)
            self._note_absent()
        finally:
            for outcome in pool.give_up(running):
                self._note(outcome.stored)
            self._record()

    def _collect(self, running: dict[Future[Outcome], Job], pool: Pool) -> None:
        for future in pool.finished(running):
            job = running.pop(future)
            outcome = pool.result(future, f"the slot of {self._time(job.slot)}")
            self.counts["tried"] += len(job.granules)
            for error in outcome.unavailable:
                self._miss(job, error)
            self._note(outcome.stored)
            self._progress(1)
        waited = time.monotonic() - self.last_record
        if waited > RECORD_AFTER_SECONDS or len(self.pending) >= RECORD_AFTER_FRAMES:
            self._record()

    def _miss(self, job: Job, error: UnavailableGranule) -> None:
        """Count a granule that could not be fetched, and say why of the first."""
        self.counts["unavailable"] += 1
        self.reasons[error.reason.name.lower()] += 1
        if self.counts["unavailable"] == 1:
            self.report.message(f"a granule could not be fetched, and is left to the next run: {error}")
        if error.reason == Reason.UNREACHABLE:
            self.unreached.add(job.slot)
            self.unavailable = self.unavailable or error

    def _raise_if_away(self) -> None:
        """Raise the first reason if nothing that was tried could be fetched.

        What has vanished may be on its way, and one slot out of reach in an archive that has others may be that slot's
        own trouble: neither is an error of the source.
        """
        if self.unavailable is None or self.counts["unavailable"] < self.counts["tried"]:
            return
        if len(self.unreached) > 1 or not self.counts["skipped"]:
            raise remote.refusal(self.config, self.unavailable) from self.unavailable

    def _time(self, slot: int) -> str:
        assert self.archive is not None
        return str(self.archive.times[slot].astype("datetime64[m]")).replace("T", " ")

    def _note_absent(self) -> None:
        if self.seen or self.counts["skipped"]:  # a source that never held anything is a mistake, not a hole
            self._note(self.absences.take())

    def _note(self, stored: list[Stored]) -> None:
        self.pending += stored
        for item in stored:
            if item.status == Status.UNSEEN:
                self.report.message(f"{item.channel} of {self._time(item.slot)} is kept damaged: the next run reads it")
                continue
            name = {Status.CORRUPT: "corrupt", Status.ABSENT: "absent"}.get(item.status, "written")
            self.counts[name] += 1
            self.counts["partial"] += item.status == Status.PARTIAL
            self.counts["out_of_range"] += item.out_of_range
            if item.reason:
                self.reasons[item.reason.name.lower()] += 1

    def _record(self) -> None:
        if self.archive is not None and self.pending:
            self.still_mine()
            self.archive.record(self.pending)
        self.pending = []
        self.last_record = time.monotonic()

    def _progress(self, slots: int) -> None:
        self.counts["slots"] += slots
        span = self.plan.times.end - self.plan.times.start
        total = -(-span // timedelta(minutes=self.config.cadence_minutes))
        self.report.progress(min(self.counts["slots"], total), total, "slots")
