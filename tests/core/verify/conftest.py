"""A tiny real chain, archive to trained run, made once: moving waves with gaps and missing pixels."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from core.archive import Archive
from core.config import EpisodesConfig, EvaluateConfig, InnerConfig, NetworkConfig, SplitConfig, TimeRange, TrainConfig
from core.episodes.builder import build
from core.satellite.granule import Frame, Grid
from core.train import train

START = datetime(2024, 6, 1, tzinfo=UTC)
CRS = {
    "grid_mapping_name": "mercator",
    "longitude_of_projection_origin": 128.0,
    "standard_parallel": 0.0,
    "semi_major_axis": 6378137.0,
    "semi_minor_axis": 6356752.3,
}


@dataclass(frozen=True)
class Chain:
    archive: str
    store: str
    run: str


def _range(first: float, last: float) -> TimeRange:
    return TimeRange(start=START + timedelta(hours=first), end=START + timedelta(hours=last))


@pytest.fixture(scope="session")
def chain(tmp_path_factory) -> Chain:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("chain")
    urls = Chain(*(str(root / name) for name in ("archive.zarr", "episodes.zarr", "run")))
    rng = np.random.default_rng(0)
    grid = Grid(np.arange(64) * 2000.0, -np.arange(48) * 2000.0, CRS)
    archive = Archive.create(
        urls.archive,
        grid=grid,
        channels={"ir": "brightness_temperature"},
        origin=START,
        cadence_minutes=30,
        years=1,
    )
    y, x = np.meshgrid(np.arange(48), np.arange(64), indexing="ij")
    stored = []
    for slot in range(3 * 48):
        if slot in (20, 21, 70):
            continue  # gaps
        wave = 20 * np.sin(0.3 * x - 0.25 * slot) * np.cos(0.2 * y + 0.1 * slot)
        values = (260 + wave + rng.normal(0, 1.5, wave.shape)).astype(np.float32)
        values[rng.uniform(size=wave.shape) < 0.01] = np.nan
        time = np.datetime64((START + slot * timedelta(minutes=30)).replace(tzinfo=None), "s")
        frame = Frame(
            channel="ir", kind="brightness_temperature", time=time, observation_time=time, values=values, grid=grid
        )
        stored += archive.write_frame(slot, frame)
    archive.record(stored)
    build(
        EpisodesConfig(
            archive=urls.archive,
            store=urls.store,
            input_frames=2,
            target_frames=3,
            tile_pixels=16,
            margin_pixels=0,
            span="hours",
            support_windows=2,
            query_windows=2,
            train_episodes=12,
            validation_episodes=3,
            test_episodes=3,
            allow_partial=True,
            split=SplitConfig(modulus=3, train=[_range(0, 32)], validation=[_range(34, 50)], test=[_range(52, 72)]),
        )
    )
    train(
        TrainConfig(
            episodes=urls.store,
            run=urls.run,
            network=NetworkConfig(width=8, depth=1),
            inner=InnerConfig(steps=1),
            steps=4,
            pretrain_steps=2,
            meta_batch=2,
            validate_every=2,
            threads=1,
        )
    )
    return urls


@pytest.fixture
def config(chain, tmp_path) -> EvaluateConfig:
    return EvaluateConfig(
        run=chain.run, episodes=chain.store, scorecard=str(tmp_path / "scorecard"), members=4, bootstrap_samples=100
    )
