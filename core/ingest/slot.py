"""One slot: its granules to durable frames. What a worker does."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from core.archive import SERVED, Archive, Status, Stored
from core.archive.packing import pack
from core.archive.shard import MISSING, DamagedError
from core.config import IngestConfig
from core.room import Room
from core.satellite import source, sun
from core.satellite.granule import CorruptGranule, Frame, Granule, Reason, UnavailableGranule

# What a slot takes at its peak, measured on full disks: the packed channels, one frame at work, and blocks of its file.
ROOM = Room(800_000_000)
BYTES_PER_CODE, BYTES_PER_PIXEL, BYTES_OF_A_FILE = 4, 40, 100_000_000


class Job(NamedTuple):
    """One slot, the granules to read for it, and the status of the channels that are data already: never made worse."""

    slot: int
    granules: tuple[Granule, ...]
    served: Mapping[str, Status]
    sunless: bool = False
    """The sun's elevation is owed to channels that are served, whatever becomes of the granules."""
    hold: str = ""
    """The name under which the run holds the archive."""


class Outcome(NamedTuple):
    """What to record of one job, and why granules could not be fetched."""

    stored: list[Stored]
    unavailable: list[UnavailableGranule]


def read_slot(archive: Archive, job: Job, config: IngestConfig) -> Outcome:
    """Read one slot's granules and make their frames durable; runs on a worker, which does as many at a time as fit."""
    height, width = archive.shape
    pixels = height * width * (BYTES_PER_PIXEL + BYTES_PER_CODE * len(job.granules))
    with ROOM.taken(pixels + min(BYTES_OF_A_FILE, 2 * max((granule.size for granule in job.granules), default=0))):
        return _read(archive, job, config)


def _read(archive: Archive, job: Job, config: IngestConfig) -> Outcome:
    refused: list[Stored] = []
    unavailable: list[UnavailableGranule] = []

    def frames() -> Iterator[Frame]:
        found, held = False, dict[str, bytes]()  # `cf` may have several channels in one file
        for granule in job.granules:
            try:
                frame = source.read_frame(granule, config, archive.grid, held)
                found = True
                if _is_blank_again(frame, archive, job.slot):
                    refused.append(Stored(job.slot, granule.channel, Status.CORRUPT, Reason.ALL_ZERO))
                elif not _is_worse(frame, archive, job):
                    yield frame
            except UnavailableGranule as error:
                unavailable.append(type(error)(error.reason, error.text))  # its traceback would keep arrays
            except CorruptGranule as error:
                refused.append(Stored(job.slot, granule.channel, Status.CORRUPT, error.reason))
        if config.sun_angle and (found or job.sunless):
            yield sun.sun_frame(archive.times[job.slot], archive.grid)

    stored = archive.write_frame(job.slot, frames(), job.hold) + refused
    told = (*SERVED, Status.UNSEEN)  # unseen is what was served and is damaged
    return Outcome([item for item in stored if item.status in told or item.channel not in job.served], unavailable)


def _is_blank_again(frame: Frame, archive: Archive, slot: int) -> bool:
    """Whether all pixels are the same where a blank frame is known: what `archive repair` took out is not served anew.

    It records a constant frame as an all-zero granule, and either may be replaced by a good one at the source.
    """
    ends = [ufunc.reduce(frame.values, axis=None) for ufunc in (np.fmin, np.fmax)]
    (least, greatest), _ = pack(np.array(ends), frame.kind)
    if least != greatest:
        return False
    column = archive.channels.index(frame.channel)
    known = (archive.days.at(name, [slot])[0, column] for name in ("status", "reason"))
    return tuple(known) == (Status.CORRUPT, Reason.ALL_ZERO)


def _is_worse(frame: Frame, archive: Archive, job: Job) -> bool:
    """Whether a partial frame would replace a complete one, or a partial one with more pixels."""
    if frame.reason == Reason.NONE or frame.channel not in job.served:
        return False
    if job.served[frame.channel] == Status.COMPLETE:
        return True
    position, every = archive.kinds[frame.kind].index(frame.channel), slice(None)
    try:  # alone, since one beside it may be damaged
        kept = archive.read_shard(frame.kind, job.slot, every, every, slice(position, position + 1))
    except DamagedError:  # it is damaged, and replaced by whatever can be read
        return False
    return kept is not None and int((kept != MISSING).sum()) > int(np.isfinite(frame.values).sum())
