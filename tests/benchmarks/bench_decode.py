"""Decoding and calibrating one granule: ours beside satpy's reader, from the same file to calibrated values.

    python tests/benchmarks/bench_decode.py

satpy reads with `calib_mode="file"` and is given its own best case: the scene is made and computed on the synchronous
scheduler, since its thread pool costs more than it gains on one small image. Area definitions and grids count in both.
"""

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from core.config import IngestConfig  # noqa: E402
from core.satellite import source  # noqa: E402
from tests.core.satellite import makers  # noqa: E402

ROUNDS = 15
TARGET = 4.0


def fastest(action: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Least time of a call in milliseconds, after one for warming up."""
    action()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def clouds(shape: tuple[int, int], bits: int) -> np.ndarray:
    """Smooth counts with noise, so that compressed cases compress as real images do."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    field = 0.5 + 0.2 * np.sin(x / 37) * np.cos(y / 53) + np.random.default_rng(0).normal(0, 0.003, shape)
    return (field * 2 ** (bits - 1)).astype(np.uint16)


def gk2a_case(folder: Path, channel: str, sector: str, shape: tuple[int, int], chunks: tuple[int, int] | None):
    """(ours, theirs): two functions that give calibrated values of one file."""
    import satpy

    stamp = "202309051230"
    path = folder / sector / makers.gk2a_name(channel, stamp, sector)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(makers.gk2a(channel, stamp, clouds(shape, makers.AMI[channel][2]), sector=sector, chunks=chunks))
    config = IngestConfig.model_validate(
        {
            "source": str(folder / sector),
            "sector": sector,
            "channels": [channel],
            "times": {"start": "2023-09-05T12:30", "end": "2023-09-05T12:31"},
            "origin": "2023-09-05T00:00",
        }
    )
    (granule,) = source.list_granules(config)
    grid = source.archive_grid([granule], config)
    infrared = channel[:2] not in ("vi", "nr")

    def ours() -> np.ndarray:
        return source.read_frame(granule, config, grid).values

    def theirs() -> np.ndarray:
        with dask.config.set(scheduler="synchronous"):
            scene = satpy.Scene([str(path)], reader="ami_l1b", reader_kwargs={"calib_mode": "file"})
            scene.load([channel.upper()], calibration="brightness_temperature" if infrared else "reflectance")
            return scene[channel.upper()].values

    difference = np.nanmax(np.abs(ours() - theirs()))
    assert difference < 0.01, difference
    return ours, theirs


CASES = {
    "LA ir105 500x500, as published": ("ir105", "la", (500, 500), None),
    "LA ir105 500x500, gzip": ("ir105", "la", (500, 500), (250, 250)),
    "LA vi006 2000x2000": ("vi006", "la", (2000, 2000), None),
    "FD ir105 5500x5500, gzip": ("ir105", "fd", (5500, 5500), (550, 550)),
}


def main() -> None:
    try:
        import satpy  # noqa: F401
    except ImportError:
        print("satpy is not installed (the extra `oracle`): nothing to compare with")
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"{'case':34} {'fewcast ms':>11} {'satpy ms':>10} {'times as fast':>14}")
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            ours, theirs = gk2a_case(Path(folder), *case)
            rounds = 3 if case[2][0] > 1000 else ROUNDS
            mine, peer = fastest(ours, rounds), fastest(theirs, rounds)
            print(f"{name:34} {mine:11.2f} {peer:10.2f} {peer / mine:14.1f}", flush=True)
    print(f"target for a local-area frame: {TARGET:.0f} times as fast")


if __name__ == "__main__":
    main()
