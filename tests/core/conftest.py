"""A tiny real chain, made once: drifting waves with gaps and missing pixels, episodes of them, a run on those."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.archive import Archive
from core.config import EpisodesConfig, InnerConfig, NetworkConfig, SplitConfig, TimeRange, TrainConfig
from core.episodes.builder import build
from core.satellite.courier import COURIER
from core.satellite.granule import Frame, Grid
from core.training.train import train

START = datetime(2024, 6, 1, tzinfo=UTC)
CRS = {
    "grid_mapping_name": "mercator",
    "longitude_of_projection_origin": 128.0,
    "standard_parallel": 0.0,
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.3,
}


@pytest.fixture(autouse=True)
def _no_courier_from_before():
    """A process for downloads knows nothing of what a test has replaced in this one."""
    yield
    COURIER.end()


def _range(first: float, last: float) -> TimeRange:
    return TimeRange(start=START + timedelta(hours=first), end=START + timedelta(hours=last))


def write_archive(url: str, frames: dict[int, np.ndarray], cadence_minutes: int = 30) -> None:
    """An archive of one thermal channel whose frames (Y, X) in kelvin are given by slot."""
    height, width = next(iter(frames.values())).shape
    grid = Grid(np.arange(width) * 2000.0, -np.arange(height) * 2000.0, CRS)
    archive = Archive.create(
        url,
        grid=grid,
        channels={"ir": "brightness_temperature"},
        origin=START,
        cadence_minutes=cadence_minutes,
        years=1,
    )
    stored = []
    for slot, values in frames.items():
        time = np.datetime64((START + slot * timedelta(minutes=cadence_minutes)).replace(tzinfo=None), "s")
        stored += archive.write_frame(
            slot,
            Frame(
                channel="ir", kind="brightness_temperature", time=time, observation_time=time, values=values, grid=grid
            ),
        )
    archive.record(stored)


def tiny_episodes(archive: str, store: str, query_windows: int = 2) -> EpisodesConfig:
    """Of the tiny archive."""
    return EpisodesConfig(
        archive=archive,
        store=store,
        input_frames=2,
        target_frames=2,
        tile_pixels=12,
        margin_pixels=2,
        span="hours",
        support_windows=2,
        query_windows=query_windows,
        train_episodes=24,
        validation_episodes=3,
        test_episodes=1,
        allow_partial=True,
        split=SplitConfig(modulus=4, train=[_range(0, 32)], validation=[_range(34, 50)], test=[_range(52, 72)]),
    )


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory) -> str:
    """Episodes of 2 + 2 windows of 2 input and 2 target frames, 12 x 12 pixels with a margin of 2."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    y, x = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    frames = {}
    for slot in range(3 * 48):
        if slot in (20, 21, 70):
            continue
        wave = 20 * np.sin(0.3 * x - 0.25 * slot) * np.cos(0.2 * y + 0.1 * slot)
        frames[slot] = (260 + wave + rng.normal(0, 1.5, wave.shape)).astype(np.float32)
        frames[slot][rng.uniform(size=wave.shape) < 0.01] = np.nan
    write_archive(str(root / "archive.zarr"), frames)
    url = str(root / "episodes.zarr")
    build(tiny_episodes(str(root / "archive.zarr"), url))
    return url


@dataclass(frozen=True)
class Chain:
    """URLs of a tiny chain, archive to trained run."""

    archive: str
    store: str
    run: str


@pytest.fixture(scope="session")
def chain(tiny_store, tmp_path_factory) -> Chain:
    """The tiny store with its archive and a run that took a few steps on it."""
    run = str(tmp_path_factory.mktemp("chain") / "run")
    network, inner = NetworkConfig(width=8, depth=1), InnerConfig(steps=1)
    train(
        TrainConfig(
            episodes=tiny_store, run=run, network=network, inner=inner, steps=4, pretrain_steps=2, meta_batch=2,
            validate_every=2, threads=1,
        )
    )  # fmt: skip
    return Chain(tiny_store.replace("episodes.zarr", "archive.zarr"), tiny_store, run)
