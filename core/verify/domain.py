"""Baselines that see the whole domain: optical flow and STEPS, by pysteps.

Both work on normalised frames without gaps. The domain is padded by its edge values, so that what flows in from
outside is the nearest thing known and not a hole; what is still missing at the end is the last frame.
"""

import contextlib
import os
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.fft import next_fast_len

_PAD = 16  # least padding in pixels: about as far as clouds move over the lead times of a nowcast


@dataclass(frozen=True)
class StepsSettings:
    """The choices of STEPS that matter here, tuned on validation."""

    cascade_levels: int = 6
    velocity_noise: bool = True
    matching: str = "cdf"  # or "mean": what of the last frame each member's values are matched to

    def __str__(self) -> str:
        noise = "perturbed" if self.velocity_noise else "fixed"
        return f"{self.cascade_levels} cascade levels, {noise} motion, {self.matching} matching"


CANDIDATES = (
    StepsSettings(),
    StepsSettings(velocity_noise=False),
    StepsSettings(matching="mean"),
    StepsSettings(cascade_levels=8),
    StepsSettings(cascade_levels=4),
)


def filled(frames: Float[np.ndarray, "T Y X"]) -> Float[np.ndarray, "T Y X"]:
    """Frames with missing pixels taken from the frame before, else from the one after, else 0 (the mean)."""
    out = np.array(frames, np.float64)
    for order in (range(1, len(out)), range(len(out) - 2, -1, -1)):
        for t in order:
            other = out[t - 1] if order.step > 0 else out[t + 1]
            out[t] = np.where(np.isfinite(out[t]), out[t], other)
    return np.nan_to_num(out, nan=0.0)


def motion(frames: Float[np.ndarray, "T Y X"]) -> Float[np.ndarray, "2 Y X"]:
    """Lucas-Kanade motion over the frames, pixels a frame; it needs two frames."""
    with _QUIET:
        from pysteps.motion.lucaskanade import dense_lucaskanade

        found: np.ndarray = dense_lucaskanade(frames)
    return np.nan_to_num(found)


def optical_flow(frames: Float[np.ndarray, "T Y X"], leads: int) -> Float[np.ndarray, "L Y X"]:
    """The last frame carried along the motion, backwards semi-Lagrangian: one forecast a lead time."""
    last, padded = filled(frames)[-1], _padded(filled(frames))
    flow = motion(padded)
    with _QUIET:
        from pysteps.extrapolation.semilagrangian import extrapolate

        moved = extrapolate(padded[-1], flow, leads)
    return _cut(moved, last)


def steps(
    frames: Float[np.ndarray, "T Y X"],
    leads: int,
    members: int,
    settings: StepsSettings,
    seed: int,
    *,
    kilometres_per_pixel: float,
    minutes_per_frame: float,
) -> Float[np.ndarray, "S L Y X"]:
    """A STEPS ensemble: advected cascades with autoregressive noise of the last frame's spectrum.

    No rain mask and no conditional statistics, because brightness has no dry pixels. The order of the autoregression
    is 2, or what the number of frames allows. Of a constant frame there is no spectrum and nothing to correlate: the
    members are then all the last frame.
    """
    clean = filled(frames)
    padded = _padded(clean)
    order = min(2, len(frames) - 1)
    newest = padded[-(order + 1) :]
    if (newest.min((1, 2)) == newest.max((1, 2))).any():
        return np.broadcast_to(clean[-1].astype(np.float32), (members, leads, *clean.shape[1:]))
    flow = motion(padded)
    with _QUIET:
        from pysteps.nowcasts import steps as pysteps_steps

        ensemble = pysteps_steps.forecast(
            newest,
            flow,
            leads,
            n_ens_members=members,
            n_cascade_levels=settings.cascade_levels,
            precip_thr=float(padded.min()) - 1.0,
            kmperpixel=kilometres_per_pixel,
            timestep=minutes_per_frame,
            ar_order=order,
            vel_pert_method="bps" if settings.velocity_noise else None,
            probmatching_method=settings.matching,
            mask_method=None,
            seed=seed % 2**32,
        )
    return _cut(np.asarray(ensemble), clean[-1])


def _padding(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns to add before and after, out to sizes that the FFT is fast at."""
    extra = [next_fast_len(extent + 2 * _PAD, real=True) - extent for extent in shape[-2:]]
    return [(n // 2, n - n // 2) for n in extra]


def _padded(frames: np.ndarray) -> np.ndarray:
    return np.pad(frames, ((0, 0), *_padding(frames.shape)), mode="edge")


def _cut(forecast: np.ndarray, last: np.ndarray) -> np.ndarray:
    (top, _), (left, _) = _padding(last.shape)
    inside = forecast[..., top : top + last.shape[0], left : left + last.shape[1]]
    return np.where(np.isfinite(inside), inside, last).astype(np.float32)


class _Quiet:
    """pysteps prints its progress, and warns of fields that are constant.

    Output and filters are the process's and not a thread's: the first thread in puts them away, the last out restores.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._restore = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                nowhere = self._restore.enter_context(open(os.devnull, "w"))
                self._restore.enter_context(contextlib.redirect_stdout(nowhere))
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore.close()


_QUIET = _Quiet()
