"""Episode stores: building, reading and loading, each beside a peer on the same bytes in the same run.

    python tests/benchmarks/bench_episodes.py [--episodes 1024] [--folder DIR]

Episodes are 24 frames of 64x64 (three windows of 8), cut from 240 frames of 512x512 on this machine's disk. Files
stay in the page cache throughout, for ours and for the peers alike.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.archive import Archive
from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build
from core.episodes.builder import _write_task
from core.episodes.context import contexts, valid_windows
from core.episodes.cut import slots_of
from core.episodes.frames import Frames
from core.episodes.loader import Loader
from core.episodes.plan import spec_of
from core.episodes.spans import Span, Timing
from core.fanout import batches, fan_out
from core.satellite.granule import Frame, Grid

SIDE, SLOTS, TILE = 512, 240, 64
FRAMES = 24
BYTES = 2 * FRAMES * TILE * TILE


def make_archive(url: str) -> None:
    """Smooth moving cloud with a little noise, so that frames compress about as real ones do."""
    rng = np.random.default_rng(0)
    grid = Grid(np.arange(SIDE) * 2000.0, np.arange(SIDE)[::-1] * 2000.0, {"grid_mapping_name": "mercator"})
    archive = Archive.create(url, grid=grid, channels={"ir": "brightness_temperature"}, years=1, cadence_minutes=30,
                             origin=np.datetime64("2022-06-01T00:00"))  # fmt: skip
    y, x = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    stored = []
    for slot in range(SLOTS):
        wave = np.sin((x - 3 * slot) / 23) * np.cos((y + slot) / 31) + np.sin((x + 2 * y - 5 * slot) / 57)
        values = (260 + 20 * wave + rng.normal(0, 0.3, wave.shape)).astype(np.float32)
        time_ = archive.times[slot]
        stored += archive.write_frame(slot, Frame("ir", "brightness_temperature", time_, time_, values, grid))
    archive.record(stored)


def configuration(folder: Path, episodes: int) -> EpisodesConfig:
    return EpisodesConfig(
        archive=str(folder / "archive.zarr"), store=str(folder / "episodes.zarr"), input_frames=4, target_frames=4,
        tile_pixels=TILE, span="hours", span_hours=24, support_windows=1, query_windows=2, train_episodes=episodes,
        validation_episodes=1, test_episodes=1,
        split={"train": [{"start": "2022-06-01", "end": "2022-06-04"}],
               "validation": [{"start": "2022-06-04", "end": "2022-06-05"}],
               "test": [{"start": "2022-06-05", "end": "2022-06-06"}]},
    )  # fmt: skip


class Cost(NamedTuple):
    """Seconds on the clock, and CPU seconds of all threads, which a busy machine does not change."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Cost:
    start, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - start, time.process_time() - cpu)


def line(what: str, amount: float, cost: Cost, unit: str, note: str = "") -> None:
    print(f"{what:<56}{amount / cost.wall:>8,.0f} {unit:<6}{amount / cost.cpu:>8,.0f} a CPU s   {note}", flush=True)


def building(config: EpisodesConfig, folder: Path, episodes: int) -> EpisodeStore:
    print(f"\nBuilding {episodes} episodes of {FRAMES}x{TILE}x{TILE}, {BYTES / 1024:.0f} KiB each")
    cost = timed(lambda: build(config))
    store = EpisodeStore.open(config.store)
    line("fewcast: survey, draw, cut, write, sync, catalog", len(store.catalog), cost, "/s", "target 480 /s on 2 cores")
    frames, timing = Frames.open(config.archive), Timing(**store.attributes["timing"])
    specs = [spec_of(row) for row in store.catalog.itertuples()]

    def ours() -> None:
        def task(items):
            return _write_task(str(folder / "ours"), frames, store.spec, timing, "bench", items)

        fan_out(task, list(batches(list(enumerate(specs)), 64)))

    cutting = timed(ours)
    line("fewcast: cut and write alone", len(specs), cutting, "/s")

    import zarr

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    raw = zarr.open_group(config.archive, mode="r")["brightness_temperature"]
    (folder / "plain").mkdir()

    def plain() -> None:
        for number, spec in enumerate(specs):
            its = slots_of(spec, timing)
            windows = [raw[w[0] : w[-1] + 1, :, spec.y0 : spec.y0 + TILE, spec.x0 : spec.x0 + TILE] for w in its]
            (folder / "plain" / str(number)).write_bytes(np.stack(windows).tobytes())

    cost = timed(plain)
    ratio = f"ours takes {cutting.wall / cost.wall:.2f} of its time, {cutting.cpu / cost.cpu:.2f} of its CPU, target 2"
    line("plain loop: zarrs slices of the archive, one file each", len(specs), cost, "/s", ratio)
    memory = frames.codes(range(SLOTS))

    def floor() -> None:
        for number, spec in enumerate(specs):
            block = memory[slots_of(spec, timing), :, spec.y0 : spec.y0 + TILE, spec.x0 : spec.x0 + TILE]
            (folder / "plain" / str(number)).write_bytes(block.tobytes())

    line("floor: the same loop over decoded frames in memory", len(specs), timed(floor), "/s")
    try:
        import xarray as xr
        import xbatcher
    except ImportError:
        print("xbatcher is not installed")
        return store
    warnings.simplefilter("ignore")
    opened = xr.open_zarr(config.archive, mask_and_scale=False, chunks=None).isel(time=slice(0, SLOTS))
    sizes = {"time": FRAMES, "y": TILE, "x": TILE}
    generator = xbatcher.BatchGenerator(opened[["brightness_temperature"]], sizes)
    count = min(128, len(specs))
    target = zarr.create_array(str(folder / "xbatcher.zarr"), shape=(count, FRAMES, 1, TILE, TILE), dtype="u2",
                               chunks=(1, FRAMES, 1, TILE, TILE), compressors=None)  # fmt: skip

    def theirs() -> None:
        for number in range(count):
            target[number] = generator[number]["brightness_temperature"].values

    line("xbatcher: the same shapes to a Zarr array", count, timed(theirs), "/s", f"({count} of them)")
    return store


def reading(store: EpisodeStore) -> None:
    ids = store.ids("train")
    order = np.random.default_rng(0).permutation(ids)
    parts = [order[i : i + 16] for i in range(0, len(order), 16)]
    size = len(ids) * int(np.prod(store.spec.block)) * 2 / 2**20
    print(f"\nReading {len(ids)} episodes in random order, 16 at a time")
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{store.url}/frames"}}
    other = tensorstore.open(spec, read=True).result()
    ours = min(timed(lambda: [store.read(part) for part in parts]) for _ in range(3))
    theirs = min(timed(lambda: [other[part].read().result() for part in parts]) for _ in range(3))
    ratio = f"{theirs.wall / ours.wall:.2f} x TensorStore, target 0.8"
    line("fewcast: EpisodeStore.read, one thread", size, ours, "MiB/s", ratio)
    line("TensorStore, its own thread pool", size, theirs, "MiB/s")


def loading(store: EpisodeStore) -> None:
    loader = Loader(store, split="train", batch_size=8)
    batch = loader.batch(0)
    size = sum(t.nbytes for w in (batch.support, batch.query) for t in (w.x, w.y, w.mask)) / 2**20
    steps = 100
    print(f"\nLoading batches of 8 episodes, {size:.1f} MiB of tensors each")
    cost = timed(lambda: [loader.batch(i) for i in range(steps)])
    line("read, decode and normalise, one thread", steps * size, cost, "MiB/s")
    seeing = Loader(store, split="train", batch_size=8, extra=("time", "sun", "location"))
    more = sum(t.nbytes for w in (seeing.batch(0).support, seeing.batch(0).query) for t in (w.x, w.y, w.mask)) / 2**20
    cost = timed(lambda: [seeing.batch(i) for i in range(steps)])
    line(f"the same with all extra inputs, {more:.1f} MiB", steps * more, cost, "MiB/s")
    pause = size / 200
    waited = []

    def consume() -> None:
        stream = iter(loader.stream(0, steps))
        next(stream)
        for _ in range(steps - 1):
            time.sleep(pause)
            start = time.perf_counter()
            next(stream)
            waited.append(time.perf_counter() - start)

    consume()
    idle = sum(waited) / (sum(waited) + pause * (steps - 1))
    print(f"a consumer of 200 MiB/s waits {idle:.1%} of its time (median {1000 * np.median(waited):.2f} ms a batch)")


def memory(config: EpisodesConfig, folder: Path) -> None:
    print("\nPeak memory of a build, in a process of its own")
    import subprocess

    for episodes in (256, 1024, 4096):
        made = config.model_copy(update={"store": str(folder / f"memory{episodes}"), "train_episodes": episodes})
        path = folder / f"memory{episodes}.json"
        path.write_text(made.model_dump_json())
        code = (
            "from core.config import EpisodesConfig; from core.episodes import build\n"
            f"build(EpisodesConfig.model_validate_json(open({str(path)!r}).read()))\n"
            "print(next(int(l.split()[1]) // 1024 for l in open('/proc/self/status') if l.startswith('VmHWM')))"
        )
        peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        print(f"{episodes:>6} training episodes: {int(peak)} MiB", flush=True)
        shutil.rmtree(made.store)


def listing() -> None:
    print("\nListing contexts: ten years of months of half hours, 900 tiles")
    rng = np.random.default_rng(0)
    slots, tiles = 24 * 365 * 10 // 8, 900  # every fourth hour: the sums are what counts
    times = np.datetime64("2012-01-01", "ns") + np.arange(slots) * np.timedelta64(4, "h")
    edges = np.searchsorted(times, np.arange("2012-01", "2022-02", dtype="M8[M]").astype("M8[ns]"))
    spans = [Span(int(a), int(b), "DJF", 2012) for a, b in itertools.pairwise(edges) if b > a]
    table = pd.DataFrame({"row": np.arange(tiles) // 30, "col": np.arange(tiles) % 30, "y0": 0, "x0": 0,
                          "split": rng.choice(["train", "validation", "test"], tiles, p=[0.6, 0.2, 0.2])})  # fmt: skip
    inside = {name: np.ones(slots, bool) for name in ("train", "validation", "test")}
    change = rng.random((slots, tiles), dtype=np.float32)
    timing = Timing(1, 4, 4, 0, 240)
    start = time.perf_counter()
    windows = valid_windows(change > 0.01, inside, change, 0, timing)
    listed = contexts(table, dict.fromkeys(inside, spans), windows, inside, {"change": change}, timing)
    seconds = time.perf_counter() - start
    print(f"{len(listed):,} contexts in {seconds:.1f} s: 100,000 in {1e5 * seconds / len(listed):.1f} s, target 60")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=1024)
    parser.add_argument("--folder", default="")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder or None))
    try:
        make_archive(str(folder / "archive.zarr"))
        config = configuration(folder, arguments.episodes)
        build(
            config.model_copy(update={"store": str(folder / "imports"), "train_episodes": 1})
        )  # imports take a second
        store = building(config, folder, arguments.episodes)
        reading(store)
        loading(store)
        memory(config, folder)
        listing()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
