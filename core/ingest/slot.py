"""One slot: its granules to durable frames. What a worker does."""

from typing import NamedTuple

from core.archive import Archive, Status, Stored
from core.config import IngestConfig
from core.ingest.plan import SERVED
from core.ingest.room import Room
from core.satellite import source, sun
from core.satellite.granule import CorruptGranule, Frame, Granule, UnavailableGranule

# What a slot takes at its peak for each pixel and channel was measured on full disks.
ROOM, BYTES_PER_PIXEL = Room(1_000_000_000), 24


class Job(NamedTuple):
    """One slot, the granules to read for it, and the channels that are data already: never made worse."""

    slot: int
    granules: tuple[Granule, ...]
    served: frozenset[str]


class Outcome(NamedTuple):
    """What to record of one job, and how many granules could not be fetched."""

    stored: list[Stored]
    unavailable: int


def read_slot(archive: Archive, job: Job, config: IngestConfig) -> Outcome:
    """Read one slot's granules and make their frames durable; runs on a worker, which does as many at a time as fit."""
    height, width = archive.shape
    with ROOM.taken(BYTES_PER_PIXEL * height * width * len(job.granules)):
        return _read(archive, job, config)


def _read(archive: Archive, job: Job, config: IngestConfig) -> Outcome:
    frames: list[Frame] = []
    stored: list[Stored] = []
    unavailable = 0
    for granule in job.granules:
        try:
            frames.append(source.read_frame(granule, config, archive.grid))
        except UnavailableGranule:
            unavailable += 1
        except CorruptGranule as error:
            stored.append(Stored(job.slot, granule.channel, Status.CORRUPT, error.reason))
    if frames:
        if config.sun_angle:
            frames.append(sun.sun_frame(job.granules[0].time, archive.grid))
        stored += archive.write_frame(job.slot, frames)
    kept = [item for item in stored if item.status in SERVED or item.channel not in job.served]
    return Outcome(kept, unavailable)
