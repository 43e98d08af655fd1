"""From the last granule's arrival to the nowcast on disk, stage by stage.

    python tests/benchmarks/bench_nowcast.py [--pixels 500] [--members 20] [--precision float32]

The network, the frames (6 in, 12 out) and the support set are those of the `korea` preset; the prior is untrained,
which costs the same. The granules are simulated ones of the local area at 2 km, and all but the last slot are in the
archive when the clock starts. The cadence that the whole has to fit in is printed beside it.
"""

import argparse
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from core.config import IngestConfig, PipelineConfig, TimeRange, load
from core.forecast.forecast import forecast
from core.ingest import ingest
from core.meta import checkpoint
from core.model import DataSpec, build_learner
from core.satellite import simulator
from flows.cli import PRESETS

START = datetime(2024, 6, 1, tzinfo=UTC)


def untrained_run(folder: Path, config: PipelineConfig) -> str:
    """A checkpoint as training leaves it, of the first prior."""
    episodes, channels = config.episodes, tuple(config.ingest.channels)
    leads = tuple(config.ingest.cadence_minutes * (i + 1) for i in range(episodes.target_frames))
    statistics = {"mean": (260.0,) * len(channels), "std": (20.0,) * len(channels)}
    spec = DataSpec(
        channels, episodes.input_frames, episodes.target_frames, leads, episodes.tile_pixels, episodes.margin_pixels,
        **statistics,
    )  # fmt: skip
    learner = build_learner(config.train, spec)
    meta = {
        "config": config.train.model_dump(mode="json"), "spec": spec.to_json(), "episodes_digest": "", "phase": "meta",
        "pretrain_steps": 0, "best_step": None, "progress": {},
    }  # fmt: skip
    tensors = {name: tensor.clone() for name, tensor in learner.init_state().tensors().items()}
    checkpoint.save(folder, 0, tensors, meta)
    return str(folder)


def granules(config: PipelineConfig, folder: Path, slots: int, pixels: int) -> IngestConfig:
    times = TimeRange(start=START, end=START + slots * timedelta(minutes=config.ingest.cadence_minutes))
    chosen = config.ingest.model_dump() | {
        "source": str(folder / "granules"), "archive": str(folder / "archive.zarr"), "origin": START, "years": 1,
        "times": times, "simulator": {"enabled": True, "pixels": pixels},
    }  # fmt: skip
    made = IngestConfig.model_validate(chosen)
    simulator.simulate(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=500)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--precision", choices=("float32", "tf32", "bf16"), help="another than the preset's")
    options = parser.parse_args()
    config = load(PRESETS / "korea.toml")
    with tempfile.TemporaryDirectory(prefix="fewcast-bench-") as name:
        folder = Path(name)
        run = untrained_run(folder / "run", config)
        windows = config.episodes.input_frames + config.episodes.target_frames
        whole = granules(config, folder, windows + config.forecast.support_windows - 1, options.pixels)
        cadence = timedelta(minutes=whole.cadence_minutes)
        ingest(whole.model_copy(update={"times": TimeRange(start=START, end=whole.times.end - cadence)}))
        begin, cpu = time.perf_counter(), time.process_time()
        ingest(whole)
        seconds = {"ingest of the slot": time.perf_counter() - begin}
        settings = {
            "archive": whole.archive,
            "run": run,
            "output": str(folder / "out"),
            "members": options.members,
            "max_age_minutes": 0,
            "precision": options.precision or config.forecast.precision,
        }
        made = forecast(config.forecast.model_copy(update=settings))
        total, cpu = time.perf_counter() - begin, time.process_time() - cpu
        size = sum(file.stat().st_size for file in Path(made.url).rglob("*") if file.is_file())
    seconds |= made.seconds
    side, leads = options.pixels, config.episodes.target_frames
    print(f"{side} x {side}, {options.members} members, {leads} leads, {len(config.ingest.channels)} channels; "
          f"torch on {torch.get_num_threads()} threads, {made.device}, {settings['precision']}")  # fmt: skip
    for stage, spent in seconds.items():
        print(f"{stage:36}{spent:8.2f} s")
    print(f"{'granule to disk':36}{total:8.2f} s   of a cadence of {cadence.total_seconds():.0f} s")
    print(f"{'CPU time of it all':36}{cpu:8.2f} s")
    print(
        f"forecast {size / 1e6:.0f} MB, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
