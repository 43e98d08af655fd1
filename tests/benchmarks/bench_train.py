"""What a training run spends beside its steps, and what a second rank or worker brings, beside one of each.

    python tests/benchmarks/bench_train.py [--steps 20] [--repeats 2]

Windows of 64 x 64 pixels, 4 + 4 frames and 4 + 4 windows an episode, like goes-irma, of smooth random fields. Every
row is a process (or two) of its own. Steps per second are those of the last ten steps, without the start; rows take
turns, and the best of each counts. Two runs apart say what the machine gives to two processes at once.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.archive import Archive
from core.config import EpisodesConfig, InnerConfig, NetworkConfig, SplitConfig, TimeRange, TrainConfig
from core.episodes.builder import build
from core.satellite.granule import Frame, Grid

START = datetime(2024, 6, 1, tzinfo=UTC)
_RUN = """
import json, os, sys, time
from pathlib import Path
from core.config import TrainConfig
from core.meta import checkpoint
from core.training.train import train

config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
summary = train(config)
if "RANK" in os.environ and os.environ["RANK"] != "0":
    sys.exit()
found = checkpoint.load_latest(Path(config.run))
begun = time.perf_counter()
for repeat in range(5):
    checkpoint.save(Path(config.run), found.step, found.tensors, found.meta)
seconds = (time.perf_counter() - begun) / 5
print(json.dumps({"speed": summary.steps_per_second, "checkpoint": seconds}))
"""


def make_store(root: Path) -> str:
    """Two days of a 192 x 256 field that drifts, in episodes."""
    rng = np.random.default_rng(0)
    height, width = 192, 256
    spectrum = np.fft.rfft2(rng.normal(size=(height, width)))
    ky, kx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    grid = Grid(
        np.arange(width) * 2000.0, -np.arange(height) * 2000.0,
        {"grid_mapping_name": "mercator", "longitude_of_projection_origin": 128.0, "standard_parallel": 0.0,
         "semi_major_axis": 6378137.0, "semi_minor_axis": 6356752.3},
    )  # fmt: skip
    archive = Archive.create(str(root / "archive.zarr"), grid=grid, channels={"ir": "brightness_temperature"},
                             origin=START, cadence_minutes=30, years=1)  # fmt: skip
    stored = []
    for slot in range(144):
        drift = np.exp(-2j * np.pi * slot * (0.8 * ky + 1.5 * kx))
        field = np.fft.irfft2(spectrum * drift * np.exp(-400 * (ky**2 + kx**2)), s=(height, width))
        time = np.datetime64((START + slot * timedelta(minutes=30)).replace(tzinfo=None), "s")
        values = (260 + 15 * field / field.std()).astype(np.float32)
        stored += archive.write_frame(slot, Frame(channel="ir", kind="brightness_temperature", time=time,
                                                  observation_time=time, values=values, grid=grid))  # fmt: skip
    archive.record(stored)

    def hours(first: float, last: float) -> TimeRange:
        return TimeRange(start=START + timedelta(hours=first), end=START + timedelta(hours=last))

    split = SplitConfig(modulus=4, train=[hours(0, 36)], validation=[hours(36, 54)], test=[hours(54, 72)])
    build(EpisodesConfig(archive=str(root / "archive.zarr"), store=str(root / "episodes.zarr"), span="hours",
                         train_episodes=64, validation_episodes=6, test_episodes=1, split=split))  # fmt: skip
    return str(root / "episodes.zarr")


def measure(configs: list[TrainConfig], root: Path, ranks: int) -> dict[str, float]:
    """Run them side by side in processes of their own, with so many ranks each; the sum of their speeds."""
    repository = str(Path(__file__).parents[2])
    first = []
    for number, config in enumerate(configs):
        path = root / f"config{number}.json"
        path.write_text(config.model_dump_json())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "OMP_NUM_THREADS": "1"}
        first += [
            subprocess.Popen([sys.executable, "-c", _RUN, path], stdout=subprocess.PIPE, text=True, cwd=repository,
                             env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)
        ][:1]  # fmt: skip
    found = [json.loads(process.communicate()[0].splitlines()[-1]) for process in first]
    return {"speed": sum(each["speed"] for each in found), "checkpoint": found[0]["checkpoint"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = make_store(root)
        base = TrainConfig(episodes=store, run="", network=NetworkConfig(width=32, depth=2, patch=2),
                           inner=InnerConfig(steps=3), steps=arguments.steps, meta_batch=4, threads=1, device="cpu",
                           validate_every=10_000, validation_episodes=16)  # fmt: skip
        rows = {
            "one rank, one thread": ({}, 1, 1),
            "two runs apart, one rank each": ({}, 1, 2),
            "two ranks": ({}, 2, 1),
            "one rank, two workers": ({"workers": 2}, 1, 1),
            "one rank, two torch threads": ({"threads": 2}, 1, 1),
        }
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; exact meta-steps of 4 episodes, M = 3")
        print(f"{'':32}{'steps/s':>10}{'against one':>14}{'checkpoint s':>14}")
        best: dict[str, dict[str, float]] = {}
        for repeat in range(arguments.repeats):
            for name, (changes, ranks, runs) in rows.items():
                places = [str(root / f"{name}-{repeat}-{run}".replace(" ", "-")) for run in range(runs)]
                found = measure([base.model_copy(update=changes | {"run": place}) for place in places], root, ranks)
                best[name] = max(best.get(name, found), found, key=lambda each: each["speed"])
        one = best["one rank, one thread"]["speed"]
        for name, found in best.items():
            print(f"{name:32}{found['speed']:10.3f}{found['speed'] / one:13.2f}x{found['checkpoint']:14.3f}")


if __name__ == "__main__":
    main()
