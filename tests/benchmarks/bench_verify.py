"""Verification against its peers: CRPS of an ensemble and of a mixture, and a whole evaluation's worth of statistics.

    python tests/benchmarks/bench_verify.py [--windows 2]

A few windows are measured on one thread in CPU seconds, which other load disturbs least, and the time of 1,000 on two
cores is that, scaled: the work is per window, keeps nothing of it but sums, and windows are independent. Peak memory is
that of whole processes, one that scores 250 windows and one that scores 1,000, both to the end of the table.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from scores.probability import crps_for_ensemble

from core.allocator import give_back_free_pages
from core.verify.crps import ensemble_crps, mixture_crps
from core.verify.ensemble import Ensemble
from core.verify.events import Event, event_statistics
from core.verify.mixture import Mixture
from core.verify.scorecard import FACTS, Settings, scorecard_table
from core.verify.state import all_statistics, as_frame
from core.verify.statistics import window_statistics

MEMBERS, LEADS, SIDE = 20, 6, 128
COUNTS = (250, 1000)


def best_of(call: Callable[[], object], repeats: int = 2) -> float:
    """CPU seconds of the fastest of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def properscoring_style(members: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The energy form by sorting with numpy, member axis last, as properscoring's vectorised reference does it."""
    ordered = np.sort(np.moveaxis(members, 0, -1), axis=-1)
    n = ordered.shape[-1]
    weight = (2.0 * np.arange(1, n + 1) - n - 1).astype(members.dtype) / (n * (n - 1))
    return np.abs(ordered - y[..., None]).mean(-1) - ordered @ weight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=2, help="windows to measure")
    parser.add_argument("--peak-of", type=int, default=0, help="score so many windows and print the peak memory alone")
    options = parser.parse_args()
    windows = options.windows
    torch.set_num_threads(1)
    if options.peak_of:
        return score_and_print_peak(options.peak_of)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, LEADS, SIDE, SIDE, generator=generator)
    members = torch.randn(MEMBERS, 1, LEADS, SIDE, SIDE, generator=generator)
    mask = torch.rand(y.shape, generator=generator) > 0.1
    members_np, y_np = members.numpy(), y.numpy()
    ensemble = xr.DataArray(members_np, dims=["m", "n", "o", "y", "x"])
    truth = xr.DataArray(y_np, dims=["n", "o", "y", "x"])
    ours = ensemble_crps(members, y).numpy()
    theirs = crps_for_ensemble(ensemble, truth, "m", method="fair", preserve_dims="all").values
    print(f"one window: {MEMBERS} members x {LEADS} leads x {SIDE} x {SIDE}; one thread")
    print(f"largest difference between our fair CRPS and that of scores: {np.abs(ours - theirs).max():.1e}\n")
    mixture = Mixture(members, torch.full((LEADS, 1, 1), 0.5))
    own = Mixture(members, torch.full_like(members, 0.5))
    event = [Event("high", 0, 1.0, True)]

    def evaluation(
        statistics: Callable[[Mixture | Ensemble], object], forecast: Mixture | Ensemble
    ) -> Callable[[], None]:
        def run() -> None:
            for _ in range(windows):
                statistics(forecast)

        return run

    def basic(f: Mixture | Ensemble) -> object:
        return window_statistics(f, y, mask), event_statistics(f, y, mask, event, 1)

    def everything(f: Mixture | Ensemble) -> object:
        return all_statistics(f, y, mask, event, 1, 0)

    rows = [
        ("fair CRPS of an ensemble: fewcast", best_of(lambda: ensemble_crps(members, y))),
        (
            "  peer: scores",
            best_of(lambda: crps_for_ensemble(ensemble, truth, "m", method="fair", preserve_dims="all")),
        ),
        ("  peer: numpy sort, properscoring style", best_of(lambda: properscoring_style(members_np, y_np))),
        ("CRPS of a mixture, closed form, shared std", best_of(lambda: mixture_crps(members, mixture.std, y))),
        ("CRPS of a mixture, a std for each sample", best_of(lambda: mixture_crps(members, own.std, y))),
        ("CRPS, spread, ranks, reliability: ensemble", best_of(evaluation(basic, Ensemble(members))) / windows),
        ("  the same of a mixture, shared std", best_of(evaluation(basic, mixture)) / windows),
        ("  the same of a mixture, own stds", best_of(evaluation(basic, own)) / windows),
        ("everything of an ensemble", best_of(evaluation(everything, Ensemble(members))) / windows),
        ("  the same of a mixture, own stds", best_of(evaluation(everything, own)) / windows),
    ]
    print(f"{'':44}{'CPU ms a window':>16}{'s for 1,000 on 2 cores':>24}")
    for name, seconds in rows:
        print(f"{name:44}{1e3 * seconds:16.1f}{500 * seconds:24.1f}")
    few, many = (peak_megabytes_of_another_process(count) for count in COUNTS)
    print(
        f"\npeak memory: {few:.0f} MB for {COUNTS[0]:,} windows, {many:.0f} MB for {COUNTS[1]:,} ({many - few:+.0f} MB)"
    )


def peak_megabytes_of_another_process(windows: int) -> float:
    """Of a process that scores so many windows and nothing else: a peak never falls, so one process has only one."""
    command = [sys.executable, __file__, "--peak-of", str(windows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def score_and_print_peak(windows: int) -> None:
    """Everything of an ensemble for as many windows, each with its own forecast, then the table; prints megabytes."""
    store: Any = SimpleNamespace(channels=["ir"], lead_minutes=tuple(range(30, 30 * (LEADS + 1), 30)))
    event, frames = [Event("high", 0, 1.0, True)], []
    generator = torch.Generator().manual_seed(0)
    for window in range(windows):
        y = torch.randn(1, LEADS, SIDE, SIDE, generator=generator)
        members = torch.randn(MEMBERS, 1, LEADS, SIDE, SIDE, generator=generator)
        stats = all_statistics(Ensemble(members), y, torch.ones_like(y).bool(), event, 1, 0)
        entry = pd.Series({"split": "test", "holdout": "both", "id": window, "row": window % 5, "col": 0})
        start = np.datetime64("2024-06-01", "ns") + np.timedelta64(window, "h")
        frames.append(as_frame(stats, "ensemble", entry, np.array([start]), store))
        if window % 8 == 7:  # an episode's windows
            give_back_free_pages()
    table = scorecard_table(
        pd.concat(frames, ignore_index=True).assign(**dict.fromkeys(FACTS, 0)), Settings(samples=1000), []
    )
    assert np.isfinite(table["value"]).all()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)


if __name__ == "__main__":
    main()
