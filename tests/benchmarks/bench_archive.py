"""Archive writes and random-window reads beside TensorStore and zarr-python on the very same layout.

python tests/benchmarks/bench_archive.py [--frames 200] [--side 512] [--channels 1]
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tensorstore
import zarr

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.archive import Archive
from core.archive.shard import encode
from core.satellite.bands import BANDS, noise_of, observe
from core.satellite.granule import Grid
from core.satellite.truth import Truth

KIND = "brightness_temperature"
WINDOW, DEPTH = 256, 24
IN_FLIGHT = 8  # writes at a time, as an ingest has by default
REPEATS = 9  # one after the other in turn, so that what else the machine does meets both alike


def skies(frames: int, side: int, channels: int) -> np.ndarray:
    """Codes (T, C, Y, X) of simulated clouds, whose noise compresses like the real thing."""
    truth, band = Truth(0), BANDS["ir105"]
    out = np.empty((frames, channels, side, side), np.uint16)
    for t in range(frames):
        moment = np.datetime64("2024-03-01", "s") + np.timedelta64(10 * (t % 40), "m")
        values = observe(band, truth.at(moment), noise_of(0, f"c{t}", moment))
        whole = np.pad(values, ((0, max(0, side - 500)),) * 2, mode="reflect")[:side, :side]
        out[t] = np.rint(whole * 100).astype(np.uint16)[None]
    return out


def fresh(folder: Path, name: str, side: int, channels: int) -> Archive:
    grid = Grid(np.arange(side) * 2000.0, -np.arange(side) * 2000.0, {"grid_mapping_name": "geostationary"})
    names = {f"c{i}": KIND for i in range(channels)}
    origin = datetime(2024, 3, 1, tzinfo=UTC)
    return Archive.create(str(folder / name), grid=grid, channels=names, origin=origin, cadence_minutes=10, years=1)


def peer(archive: Archive) -> tensorstore.TensorStore:
    place = {"driver": "file", "path": f"{archive.url}/{KIND}"}
    return tensorstore.open({"driver": "zarr3", "kvstore": place}).result()


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds; CPU time is the process's own, so that a busy machine does not matter."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--channels", type=int, default=1)
    options = parser.parse_args()
    codes = skies(options.frames, options.side, options.channels)
    slots = range(options.frames)
    folder = Path(tempfile.mkdtemp(prefix="fewcast-bench-"))
    try:
        ours, theirs = (fresh(folder, n, options.side, options.channels) for n in ("ours", "theirs"))
        store = peer(theirs)

        def we_write() -> None:
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                list(pool.map(lambda t: ours.objects.put(f"{KIND}/c/{t}/0/0/0", encode(codes[t])), slots))

        def they_write() -> None:
            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                list(pool.map(lambda t: store[t].write(codes[t]).result(), slots))

        def we_write_then_read() -> list[np.ndarray]:
            we_write()
            return we_read()

        def they_write_then_read() -> list[np.ndarray]:
            they_write()
            return they_read()

        rng = np.random.default_rng(0)
        picks = [
            (int(rng.integers(options.frames - DEPTH)), *(int(v) for v in rng.integers(options.side - WINDOW, size=2)))
            for _ in range(20)
        ]

        def we_read() -> list[np.ndarray]:
            return [
                ours.read_packed(KIND, range(t, t + DEPTH), slice(y, y + WINDOW), slice(x, x + WINDOW))
                for t, y, x in picks
            ]

        def they_read() -> list[np.ndarray]:
            fresh_store = peer(theirs)
            return [fresh_store[t : t + DEPTH, :, y : y + WINDOW, x : x + WINDOW].read().result() for t, y, x in picks]

        def zarr_reads() -> list[np.ndarray]:
            array = zarr.open_group(ours.url, mode="r")[KIND]
            return [array[t : t + DEPTH, :, y : y + WINDOW, x : x + WINDOW] for t, y, x in picks[:4]]

        assert all(
            np.array_equal(a, b)
            for a, b in zip(*(f() for f in (we_write_then_read, they_write_then_read)), strict=True)
        )
        tasks = {
            "write, one shard a slot": (we_write, they_write, codes.nbytes / 1e6),
            f"read {DEPTH} x {WINDOW} x {WINDOW} windows": (
                we_read, they_read, len(picks) * DEPTH * options.channels * WINDOW * WINDOW * 2 / 1e6,
            ),
        }  # fmt: skip
        print(
            f"{options.frames} frames of {options.channels} x {options.side} x {options.side} uint16, best of {REPEATS}"
        )
        print(f"{'MB/s':32}{'fewcast':>10}{'TensorStore':>13}{'ratio':>8}{'ratio of CPU time':>20}")
        for name, (mine, theirs_too, size) in tasks.items():
            runs = [(seconds(mine), seconds(theirs_too)) for _ in range(REPEATS)]
            (wall, cpu), (peer_wall, peer_cpu) = (
                tuple(min(run[who][what] for run in runs) for what in (0, 1)) for who in (0, 1)
            )
            print(f"{name:32}{size / wall:10.0f}{size / peer_wall:13.0f}{peer_wall / wall:8.2f}{peer_cpu / cpu:20.2f}")
        plain, _ = seconds(zarr_reads)
        print(f"{'the same windows with zarr-python':32}{tasks[name][2] * 4 / len(picks) / plain:10.0f}")
        stored = sum(size for _, size in ours.objects.keys(f"{KIND}/c"))
        print(f"compressed {codes.nbytes / stored:.2f} times")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
