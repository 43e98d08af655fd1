"""The satellite of the soak: granules in a bucket, slot by slot, with the faults of real archives; and its model."""

import time
from datetime import datetime, timedelta
from pathlib import Path

import fsspec
import numpy as np

from core.config import TimeRange, load
from core.episodes.builder import build
from core.ingest import ingest
from core.satellite.faults import Fault, fault_of
from core.satellite.simulator import simulate
from core.training.train import train

HERE = Path(__file__).parent
BUCKETS = ("granules", "archive")


def sky(start: datetime, slots: int, faults: float) -> str:
    """The config of a sky that begins at a day near the present, so that `latest` sees it."""
    text = (HERE / "sky.toml").read_text()
    hours = slots // 60 + 3
    changes = {
        "2024-06-01T00:00:00Z, end = 2024-06-02T00:00:00Z": f"{start:%FT%TZ}, end = {start + timedelta(days=2):%FT%TZ}",
        "origin = 2024-06-01T00:00:00Z": f"origin = {start:%F}T00:00:00Z",
        "hours = 24": f"hours = {hours}",
        "pixels = 96": f"pixels = 96\nfaults = {faults}",
        "[forecast]\n": '[forecast]\nrun = "model/run"\n',
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def train_model(folder: Path) -> int:
    """A small model of the same sky on another day, in `folder/model`."""
    config = load(HERE / "sky.toml", [f"root={folder / 'model'}", f"ingest.source={folder / 'model' / 'granules'}",
                                      f"ingest.archive={folder / 'model' / 'archive.zarr'}",
                                      "ingest.times.end=2024-06-01T03:00:00Z"])  # fmt: skip
    simulate(config.ingest)
    ingest(config.ingest)
    build(config.episodes)
    train(config.train)
    return 0


class Satellite:
    """Publishes the slots of a config, one a call, whole or spoilt, in time or late."""

    def __init__(self, config: Path, slots: int) -> None:
        self.config = load(config).ingest
        first = self.config.times.start
        self.times = [first + timedelta(minutes=n * self.config.cadence_minutes) for n in range(slots)]
        self.published = 0

    def make_buckets(self) -> None:
        """The S3 server answers before it has read whom it knows."""
        filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
        self._insist(lambda: [filesystem.makedirs(bucket, exist_ok=True) for bucket in BUCKETS])

    def publish(self) -> None:
        """Write the granules of the next slot, and a late one of an earlier slot; waits for a bucket that is away."""
        end = self.times[self.published] + timedelta(minutes=self.config.cadence_minutes)
        config = self.config.model_copy(update={"times": TimeRange(start=self.times[0], end=end)})
        self._insist(lambda: simulate(config))
        self.published += 1

    def whole(self) -> list[datetime]:
        """Slots of which every granule was published as it should be, though it may have come late."""
        settings = self.config.simulator

        def good(time: datetime) -> bool:
            moment = np.datetime64(time.replace(tzinfo=None), "s")
            faults = {fault_of(settings.seed, name, moment, settings.faults) for name in self.config.channels}
            late = Fault.LATE in faults and time == self.times[-1]  # nothing comes after it
            return faults <= {None, Fault.LATE} and not late

        return [time for time in self.times[: self.published] if good(time)]

    @staticmethod
    def _insist(attempt) -> None:
        deadline = time.monotonic() + 900
        while True:
            try:
                attempt()
                return
            except Exception:  # whatever an S3 client says of a server that is away
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
