"""A small awkward archive: not square, two channels of two kinds, gaps, a corrupt slot, partial ones, holes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.archive import Archive, Status
from core.config import EpisodesConfig
from core.satellite.granule import Frame, Grid

SHAPE = (56, 83)
SLOTS = 144  # three days of half hours
ABSENT = (20, 21, 75)
CORRUPT = (40,)
PARTIAL = (100,)
START = np.datetime64("2021-11-29T00:15", "ns")
CHANNELS = {"ir": "brightness_temperature", "vis": "reflectance"}


def values(slot: int, channel: str) -> np.ndarray:
    """The frame of a slot: smooth, moving, different everywhere, with a hole that wanders through."""
    y, x = np.meshgrid(np.arange(SHAPE[0]), np.arange(SHAPE[1]), indexing="ij")
    wave = np.sin(0.21 * (x - 1.5 * slot)) * np.cos(0.13 * (y + 0.5 * slot)) + 0.002 * x * y / 83
    frame = 250 + 30 * wave if channel == "ir" else 40 + 30 * wave
    hole = (slot * 3) % (SHAPE[1] - 6)
    frame[8:30, hole : hole + 5] = np.nan
    return frame.astype(np.float32)


def write(archive: Archive, slots: Any, shift: float = 0.0) -> None:
    stored = []
    for slot in slots:
        time = archive.times[slot]
        frames = [
            Frame(channel=name, kind=kind, time=time, observation_time=time, values=values(slot, name) + shift,
                  grid=archive.grid)
            for name, kind in CHANNELS.items()
        ]  # fmt: skip
        stored += archive.write_frame(slot, frames)
    archive.record(stored)


def make_archive(url: str, slots: range = range(SLOTS)) -> Archive:
    grid = Grid(np.arange(SHAPE[1]) * 2000.0, np.arange(SHAPE[0])[::-1] * 2000.0, {"grid_mapping_name": "mercator"})
    archive = Archive.create(url, grid=grid, channels=CHANNELS, origin=START, cadence_minutes=30, years=1)
    write(archive, [slot for slot in slots if slot not in ABSENT + CORRUPT])
    for slot, status in [*((s, Status.ABSENT) for s in ABSENT), *((s, Status.CORRUPT) for s in CORRUPT)]:
        archive.set_status(slot, list(CHANNELS), status)
    for slot in PARTIAL:
        archive.set_status(slot, ["vis"], Status.PARTIAL)
    return archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return make_archive(str(tmp_path_factory.mktemp("episodes") / "archive.zarr"))


@pytest.fixture
def configure(archive: Archive, tmp_path: Path) -> Callable[..., EpisodesConfig]:
    """A configuration of the small archive, with changes."""

    def make(split: dict[str, Any] | None = None, **changes: Any) -> EpisodesConfig:
        day = "2021-11-{} 00:00"
        ranges = {
            "train": [{"start": day.format(29), "end": day.format(30)}],
            "validation": [{"start": "2021-11-30 00:00", "end": "2021-11-30 23:00"}],
            "test": [{"start": "2021-12-01 00:00", "end": "2021-12-02 00:00"}],
        }
        settings: dict[str, Any] = {
            "archive": archive.url,
            "store": str(tmp_path / "episodes.zarr"),
            "input_frames": 2,
            "target_frames": 3,
            "tile_pixels": 16,
            "span": "hours",
            "span_hours": 20,
            "span_stride_hours": 2,
            "support_windows": 2,
            "query_windows": 3,
            "train_episodes": 40,
            "validation_episodes": 20,
            "test_episodes": 30,
            "split": {**ranges, **(split or {})},
        }
        return EpisodesConfig(**(settings | changes))

    return make
