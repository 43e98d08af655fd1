"""Verification against its peers: CRPS of an ensemble and of a mixture, and a whole evaluation's worth of statistics.

    python tests/benchmarks/bench_verify.py [--windows 2]

A few windows are measured on one thread in CPU seconds, which other load disturbs least, and the time of 1,000 on two
cores is that, scaled: the work is per window, keeps nothing of it but sums, and windows are independent.
"""

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from scores.probability import crps_for_ensemble

from core.verify.crps import ensemble_crps, mixture_crps
from core.verify.ensemble import Ensemble
from core.verify.events import Event, event_statistics
from core.verify.mixture import Mixture
from core.verify.state import all_statistics
from core.verify.statistics import window_statistics

MEMBERS, LEADS, SIDE = 20, 6, 128


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
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best_of(evaluation(basic, own), 4)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"\npeak memory {after / 1e6:.2f} GB; {(after - before) / 1e3:.0f} MB more for {4 * windows} windows more")


if __name__ == "__main__":
    main()
