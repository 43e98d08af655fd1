"""Re-reading an archive: what it serves and should not, and taking that out of service."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from core.archive.archive import Archive, Stored
from core.archive.layout import SERVED, Status
from core.archive.lock import exclusive
from core.archive.merging import put_beside
from core.archive.packing import PACKINGS
from core.archive.shard import MISSING, DamagedError
from core.archive.unwritable import one_line_if_unwritable
from core.report import Report, Silent
from core.room import Room
from core.satellite.granule import PHYSICAL_RANGE, Kind, Reason

READERS = 4
# What looking at a slot takes at its peak: the codes of a kind, which a bucket's reader has twice, and copies of one
# channel's.
ROOM = Room(800_000_000)
BYTES_PER_CODE, BYTES_PER_PIXEL = 4, 8
LONGEST_LIST = 50


class Fault(StrEnum):
    """What can be wrong with a frame that is served (or, of TORN, lies beside one and spoils its reading)."""

    TORN = "its stored bytes do not check"
    LOST = "nothing is stored"
    CONSTANT = "all its pixels are the same"
    FROZEN = "it repeats the frame before"
    OUT_OF_RANGE = "it holds values outside the physical range"


# What a repair records: unseen is read again by any ingest, corrupt by one of mode `repair`.
MENDED = {
    Fault.TORN: (Status.UNSEEN, Reason.NONE),
    Fault.LOST: (Status.UNSEEN, Reason.NONE),
    Fault.CONSTANT: (Status.CORRUPT, Reason.ALL_ZERO),
    Fault.FROZEN: (Status.CORRUPT, Reason.FROZEN),
    Fault.OUT_OF_RANGE: (Status.CORRUPT, Reason.OUT_OF_RANGE),
}


@dataclass(frozen=True)
class Problem:
    """One frame that is served and should not be, or is torn beside one that is rightly served."""

    slot: int
    time: np.datetime64
    channel: str
    fault: Fault


@dataclass(frozen=True)
class Validation:
    """How many frames were read again, and what was found; `repaired` if it was also taken out of service."""

    url: str
    frames: int
    problems: tuple[Problem, ...]
    repaired: bool = False

    @property
    def markdown(self) -> str:
        if not self.problems:
            return f"**{self.url}**: {self.frames} frames read again, all sound\n"
        counts = Counter(problem.fault for problem in self.problems)
        done = "taken out of service" if self.repaired else "still served; `fewcast archive repair` mends it"
        lines = [f"**{self.url}**: {self.frames} frames read again, {len(self.problems)} unsound ({done})", ""]
        lines += ["| fault | frames |", "|---|---:|", *(f"| {fault.value} | {n} |" for fault, n in counts.items())]
        lines += ["", "| time | channel | fault |", "|---|---|---|"]
        for one in self.problems[:LONGEST_LIST]:
            lines.append(f"| {one.time.astype('datetime64[m]')} | {one.channel} | {one.fault.value} |")
        if len(self.problems) > LONGEST_LIST:
            lines.append(f"| and {len(self.problems) - LONGEST_LIST} more | | |")
        return "\n".join(lines) + "\n"


def validate(url: str, *, report: Report | None = None) -> Validation:
    """Read every served frame again, and change nothing."""
    return _validate(Archive.open(url), report or Silent())


def repair(url: str, *, report: Report | None = None) -> Validation:
    """Take unsound frames out of service, so that no reader gets them and an ingest can fetch them again.

    Torn ones are dropped from the shards that serve others: a read of all channels would end at them.
    """
    archive = Archive.open(url, "r+")
    with one_line_if_unwritable(url), exclusive(archive.objects) as still_mine:
        found = _validate(archive, report or Silent())
        still_mine()
        archive.record(Stored(one.slot, one.channel, *MENDED[one.fault]) for one in found.problems)
        lost = list(_without_torn(archive, found.problems, still_mine.name))
        still_mine()
        archive.record(lost)
    return Validation(url, found.frames, found.problems, repaired=True)


def _without_torn(archive: Archive, problems: tuple[Problem, ...], hold: str) -> Iterator[Stored]:
    """Put the shards of torn frames anew with what they still serve, if anything; returns what was lost meanwhile."""
    torn = {(one.slot, archive.kind_of[one.channel]) for one in problems if one.fault is Fault.TORN}
    for slot, kind in sorted(torn):
        names = archive.kinds[kind]
        (status,) = archive.status_of([slot])
        if np.isin(status[[archive.channels.index(name) for name in names]], SERVED).any():
            codes = np.full((len(names), *archive.shape), MISSING, np.uint16)
            for name in put_beside(archive, kind, slot, codes, set(), hold):
                yield Stored(slot, name, *MENDED[Fault.TORN])


def _validate(archive: Archive, report: Report) -> Validation:
    days = archive.days.recorded()
    before: dict[str, bytes] = {}
    problems: list[Problem] = []
    frames = 0
    with ThreadPoolExecutor(READERS) as pool:
        for done, day in enumerate(days, 1):
            begin = day * archive.slots_per_day
            status = archive.days.day("status", day)[: len(archive.times) - begin]
            served = np.isin(status, SERVED)
            slots = [int(row) for row in np.flatnonzero(served.any(1))]
            frames += int(served.sum())
            found = pool.map(
                lambda row, served=served, begin=begin: list(_look(archive, begin + row, served[row])), slots
            )
            for row, looks in zip(slots, found, strict=True):
                slot = begin + row
                for channel, fault, digest in looks:
                    if not fault and before.get(channel) == digest:
                        fault = Fault.FROZEN
                    before[channel] = digest
                    if fault:
                        problems.append(Problem(slot, archive.times[slot], channel, fault))
            report.progress(done, len(days), "days read again")
    return Validation(archive.url, frames, tuple(problems))


def _look(archive: Archive, slot: int, served: np.ndarray) -> Iterator[tuple[str, Fault | None, bytes]]:
    """(channel, fault, digest of its codes) of each served channel of a slot, and of those torn beside a sound one."""
    for kind, channels in archive.kinds.items():
        mine = [name for name in channels if served[archive.channels.index(name)]]
        if not mine:
            continue
        height, width = archive.shape
        with ROOM.taken(height * width * (BYTES_PER_CODE * len(channels) + BYTES_PER_PIXEL)):
            codes = None
            with suppress(DamagedError):
                codes = archive.read_packed(kind, [slot], slice(None), slice(None))[0]
            if codes is not None:
                for name in mine:
                    yield _judge(name, kind, codes[channels.index(name)])
                continue
            looks = [_look_alone(archive, slot, kind, name) for name in channels]
        some_sound = any(fault is not Fault.TORN for name, fault, _ in looks if name in mine)
        yield from (one for one in looks if one[0] in mine or (some_sound and one[1] is Fault.TORN))


def _look_alone(archive: Archive, slot: int, kind: Kind, name: str) -> tuple[str, Fault | None, bytes]:
    position = archive.kinds[kind].index(name)
    try:
        codes = archive.read_shard(kind, slot, slice(None), slice(None), slice(position, position + 1))
    except DamagedError:
        return name, Fault.TORN, b""
    return (name, Fault.LOST, b"") if codes is None else _judge(name, kind, codes[0])


def _judge(name: str, kind: Kind, codes: np.ndarray) -> tuple[str, Fault | None, bytes]:
    present = codes[codes != MISSING]
    if not present.size:
        return name, Fault.LOST, b""
    packing, (low, high) = PACKINGS[kind], PHYSICAL_RANGE[kind]
    least, greatest = int(present.min()), int(present.max())
    if least == greatest and kind != "solar_elevation":
        return name, Fault.CONSTANT, b""
    if least < round((low - packing.offset) / packing.scale) or greatest > round(
        (high - packing.offset) / packing.scale
    ):
        return name, Fault.OUT_OF_RANGE, b""
    return name, None, hashlib.blake2b(codes.tobytes(), digest_size=16).digest()
