"""The one writer, and a fast reader, of an archive of frames."""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from core.archive import layout, shard
from core.archive.bucket import ReplacedError
from core.archive.days import Days, Stored
from core.archive.layout import SERVED, Status
from core.archive.matching import require
from core.archive.merging import put_beside
from core.archive.objects import LocalObjects, Objects, open_objects
from core.archive.packing import PACKINGS, Packing, pack, unpack
from core.archive.windows import Windows
from core.errors import FewcastError
from core.satellite.granule import Frame, Grid, Kind, Reason


class Archive:
    """Frames in one Zarr v3 store under a path or an `s3://` URL.

    `write_frame` makes frames durable, and `record` then says so: only what `status` calls complete or partial is
    data. Both replace whole objects, so a killed writer loses at most what it had not yet recorded, and doing it again
    gives the same bytes. Frames may be written from many threads and processes; `record` needs one writer a day
    (`core.archive.lock` keeps two ingests of one archive apart).
    """

    def __init__(self, url: str, *, writable: bool = False) -> None:
        self.url = url
        self.writable = writable
        self.objects: Objects = open_objects(url)
        if self.objects.get("zarr.json") is None:
            raise FewcastError(f"no archive at {url}", found="no zarr.json there", mend="run `fewcast ingest` first")
        self._coordinates = layout.coordinates(self.objects)
        self._made = layout.digest(self._coordinates)
        attributes: dict[str, Any] = layout.metadata(self._coordinates).get("attributes", {})
        if attributes.get("fewcast_archive_version") != layout.VERSION:
            raise FewcastError(
                f"{url} is not an archive of version {layout.VERSION}",
                found=f"fewcast_archive_version {attributes.get('fewcast_archive_version')!r}",
                mend="give another ingest.archive and ingest anew",
            )
        self.cadence_minutes: int = attributes["cadence_minutes"]
        self.kind_of: dict[str, Kind] = dict(zip(attributes["channels"], attributes["kinds"], strict=True))
        self.channels: tuple[str, ...] = tuple(self.kind_of)
        self.kinds: dict[Kind, tuple[str, ...]] = {
            kind: tuple(name for name in self.channels if self.kind_of[name] == kind)
            for kind in dict.fromkeys(self.kind_of.values())
        }
        self.made_from: dict[str, Any] = attributes.get("made_from", {})
        self.slots_per_day = layout.slots_per_day(self.cadence_minutes)
        self.days = Days(self.objects, self.kind_of, len(self.times), self.slots_per_day)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.url, self.writable, self._made)

    @classmethod
    def open(cls, url: str, mode: Literal["r", "r+"] = "r") -> "Archive":
        """The archive at a URL; `FewcastError` if there is none."""
        return cls(url, writable=mode == "r+")

    @classmethod
    def exists(cls, url: str) -> bool:
        return open_objects(url).get("zarr.json") is not None

    @classmethod
    def create(
        cls,
        url: str,
        *,
        grid: Grid,
        channels: Mapping[str, Kind],
        origin: datetime | np.datetime64,
        cadence_minutes: int,
        years: int = 10,
        made_from: Mapping[str, Any] | None = None,
    ) -> "Archive":
        """An empty archive, or the one that is there if it is of the same grid, channels and time axis.

        The root `zarr.json` is written last: an archive half made does not exist. `made_from` is remembered, to tell
        without another look at the source whether settings lead to the same grid.
        """
        start = origin.astype("datetime64[s]").item() if isinstance(origin, np.datetime64) else origin
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
        if cls.exists(url):
            archive = cls(url, writable=True)
            require(archive, grid=grid, channels=channels, origin=start, cadence_minutes=cadence_minutes)
            return archive
        objects = open_objects(url)
        made = layout.template(
            grid=grid,
            channels=channels,
            origin=start,
            cadence_minutes=cadence_minutes,
            years=years,
            made_from=dict(made_from or {}),
        )
        for key, data in made.items():
            objects.put(key, data)
        return cls(url, writable=True)

    @cached_property
    def times(self) -> NDArray[np.datetime64]:
        """Every slot's nominal time (UTC, datetime64[ns])."""
        made = layout.metadata(self._coordinates, "time")
        units = str(made["attributes"]["units"])
        origin = np.datetime64(units.removeprefix("minutes since ").replace(" ", "T"), "ns")
        (slots,) = made["shape"]  # the axis is regular by its making, and need not be read
        return origin + np.arange(slots) * np.timedelta64(self.cadence_minutes, "m").astype("timedelta64[ns]")

    @cached_property
    def grid(self) -> Grid:
        x, y = (layout.values(self._coordinates, name).astype(np.float64) for name in ("x", "y"))
        return Grid(x, y, layout.metadata(self._coordinates, "crs")["attributes"])

    @property
    def shape(self) -> tuple[int, int]:
        return self.grid.shape

    def packing(self, kind: Kind) -> Packing:
        """Scale and offset of a kind's codes."""
        return PACKINGS[kind]

    def slot(self, time: np.datetime64 | datetime) -> int:
        """Index of the slot of exactly this nominal time; `ValueError` if no slot has it."""
        if isinstance(time, datetime):
            time = np.datetime64(time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time)
        minutes = (time.astype("datetime64[s]") - self.times[0].astype("datetime64[s]")).astype(int) / 60
        index, rest = divmod(minutes, self.cadence_minutes)
        if rest or not 0 <= index < len(self.times):
            raise ValueError(f"no slot at {time}: every {self.cadence_minutes} minutes, {self.times[[0, -1]]}")
        return int(index)

    # -- writing

    def write_frame(self, slot: int, frames: Frame | Iterable[Frame], hold: str = "") -> list[Stored]:
        """Make one slot's frames durable, beside what the slot already serves; then `record` what comes back.

        Each frame is packed as it comes, so that of an iterator's frames one is in memory at a time. Values outside the
        physical range become missing and are counted, never wrapped. What the slot serves and can no longer be read
        comes back as unseen, for the next run to read again.

        Raises `FewcastError` where another has written the slot since `hold`, the name of `lock.exclusive`, was lost.
        """
        self._writable()
        stored: list[Stored] = []
        written: dict[Kind, set[str]] = {}
        whole: dict[Kind, shard.Codes] = {}
        for frame in [frames] if isinstance(frames, Frame) else frames:
            kind = self.kind_of[frame.channel]
            assert frame.kind == kind, f"{frame.channel} is {kind} here, not {frame.kind}"
            if frame.values.shape != self.shape:
                raise ValueError(f"a frame of {frame.values.shape} for an archive of {self.shape}")
            codes, lost = pack(frame.values, kind)
            reason = Reason.OUT_OF_RANGE if lost and frame.reason == Reason.NONE else frame.reason
            status = Status.PARTIAL if reason != Reason.NONE else Status.COMPLETE
            if (codes == shard.MISSING).all():
                status, reason = Status.CORRUPT, reason or Reason.ALL_MISSING
            else:
                names = self.kinds[kind]
                if kind not in whole:
                    whole[kind] = np.full((len(names), *self.shape), shard.MISSING, np.uint16)
                whole[kind][names.index(frame.channel)] = codes
                written.setdefault(kind, set()).add(frame.channel)
            lost += frame.out_of_range
            stored.append(Stored(slot, frame.channel, status, reason, lost, frame.observation_time))
        for kind, codes in whole.items():
            damaged = put_beside(self, kind, slot, codes, written[kind], hold)
            stored += [Stored(slot, name, Status.UNSEEN) for name in damaged]
        return stored

    def record(self, stored: Iterable[Stored]) -> None:
        """Say what is known of slots, after their frames are durable."""
        self._writable()
        self.days.record(stored)

    def set_status(
        self, slot: int, channels: str | Iterable[str], status: Status, reason: Reason = Reason.NONE
    ) -> None:
        """Record a status with no frame: corrupt, absent, or unseen again."""
        names = [channels] if isinstance(channels, str) else list(channels)
        self.record(Stored(slot, name, Status(status), reason) for name in names)

    # -- reading

    @property
    def status(self) -> NDArray[np.uint8]:
        """Status (time, channel) of every slot, read afresh."""
        return self.days.table("status")

    def status_of(self, slots: Iterable[int]) -> NDArray[np.uint8]:
        """Status (T, channel) of some slots, read afresh, a day's object at a time."""
        return self.days.at("status", slots)

    @property
    def reason(self) -> NDArray[np.uint8]:
        """Reason (time, channel) of every slot, read afresh."""
        return self.days.table("reason")

    @property
    def out_of_range(self) -> NDArray[np.uint32]:
        """Pixels dropped for their value (time, channel), read afresh."""
        return self.days.table("out_of_range")

    def read_packed(self, kind: Kind, slots: Iterable[int], y: slice, x: slice) -> shard.Codes:
        """Stored codes (T, C, Y, X) of a window; 65535 where missing or never written. Heeds no status."""
        if (y.step or 1, x.step or 1) != (1, 1):
            raise ValueError(f"a window has no steps: found {y} and {x}")
        slots = list(slots)
        rows, columns = (slice(*part.indices(length)[:2]) for part, length in zip((y, x), self.shape, strict=True))
        height, width = (max(0, part.stop - part.start) for part in (rows, columns))
        codes = np.empty((len(slots), len(self.kinds[kind]), height, width), np.uint16)
        if not codes.size:
            return codes
        keys = [self.key(kind, slot) for slot in slots]
        rest = self._windows.read(kind, keys, rows, columns, codes) if self._windows else range(len(slots))

        def fill(position: int) -> None:
            window = self.read_shard(kind, slots[position], rows, columns)
            codes[position] = shard.MISSING if window is None else window

        with ThreadPoolExecutor(self.objects.readers) as pool:
            list(pool.map(fill, rest))
        return codes

    def read(
        self, kind: Kind, slots: Iterable[int], y: slice = slice(None), x: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Values (T, C, Y, X) of a window, NaN where missing or where the slot's status is neither 1 nor 2."""
        slots = list(slots)
        values = unpack(self.read_packed(kind, slots, y, x), kind)
        columns = [self.channels.index(name) for name in self.kinds[kind]]
        values[~np.isin(self.status_of(slots)[:, columns], SERVED)] = np.nan
        return values

    def digest(self, slots: Iterable[int]) -> str:
        """Hex digest of what the slots serve: their status and their stored shards, in the order given."""
        total = hashlib.blake2b(digest_size=16)
        for slot in slots:
            total.update(np.int64(slot).tobytes() + self.status_of([slot]).tobytes())
            for kind in self.kinds:
                total.update(hashlib.blake2b(self.objects.get(self.key(kind, slot)) or b"").digest())
        return total.hexdigest()

    def key(self, kind: Kind, slot: int) -> str:
        """The object that holds a slot's frames of a kind."""
        return f"{kind}/c/{slot}/0/0/0"

    @cached_property
    def _windows(self) -> Windows | None:
        return Windows(self.objects) if isinstance(self.objects, LocalObjects) else None

    def read_shard(
        self, kind: Kind, slot: int, y: slice, x: slice, channels: slice = slice(None)
    ) -> shard.Codes | None:
        """Stored codes (C', Y', X') of a window of one slot; None where nothing is stored. Heeds no status."""
        key = self.key(kind, slot)
        try:
            with suppress(ReplacedError), self.objects.reader(key) as read:
                return shard.decode(read, (len(self.kinds[kind]), *self.shape), channels, y, x)
            whole = self.objects.get(key)  # it changed under the reader: one request sees one version
            return shard.decode(shard.within(whole), (len(self.kinds[kind]), *self.shape), channels, y, x)
        except shard.TornShardError as error:
            raise shard.DamagedError(
                f"{key} of the archive {self.url} is damaged",
                found=str(error),
                mend="run `fewcast archive repair` on it, then ingest again",
            ) from error

    def _writable(self) -> None:
        if not self.writable:
            raise ValueError(f"{self.url} was opened for reading only")


@lru_cache(maxsize=4)
def _reopen(url: str, writable: bool, made: str) -> Archive:
    """An archive on a worker that outlives it: one made anew at the same URL has another digest, and is opened anew."""
    archive = Archive(url, writable=writable)
    if archive._made != made:
        raise FewcastError(f"the archive {url} was replaced on the way", found="another one", mend="run again")
    return archive
