"""What a forecaster would do without learning: the rows that a learner has to beat.

Every baseline sees the normalised windows that the learner sees and answers with a `Prediction` for
(N, L*C, H, W), so one code path scores them all.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.verify.ensemble import Ensemble

PERSISTENCE, DRESSED, CLIMATOLOGY = "persistence", "dressed persistence", "climatology of the support"
OPTICAL_FLOW, STEPS = "optical flow", "STEPS"
BASELINES = (PERSISTENCE, DRESSED, CLIMATOLOGY, OPTICAL_FLOW, STEPS)
"""The rows that have learned nothing."""
_QUANTILES = 40
_ERRORS_PER_WINDOW = 512  # enough for 40 quantiles from a hundred windows, small enough to keep in memory


def last_frame(
    x: Float[Tensor, "N I H_in W_in"], channels: int, target_frames: int, height: int, width: int
) -> Float[Tensor, "N O H W"]:
    """Each pixel of the newest input frame that has it, cut to the target tile, at every lead time: (N, L*C, H, W).

    `x` holds k frames of C channels, 0 where missing, and one plane with the share of them that is observed; the margin
    around the tile is cut away. A pixel that every frame lacks is 0, the mean of training.
    """
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    inside = x[..., top : top + height, left : left + width]
    frames, whole = inside[:, :-1].unflatten(1, (-1, channels)), inside[:, -1:] >= 1
    newest = frames[:, 0]
    for frame in frames.unbind(1)[1:]:
        newest = torch.where(whole | (frame != 0), frame, newest)  # where some are missing, it is those that are 0
    return newest.repeat(1, target_frames, 1, 1)


def persistence(last: Float[Tensor, "N O H W"]) -> Ensemble:
    """The last frame stays: a point forecast, whose CRPS is its mean absolute error."""
    return Ensemble(last[None])


def climatology(
    y: Float[Tensor, "M O H W"], mask: Bool[Tensor, "M O H W"], shape: tuple[int, ...], channels: int
) -> Ensemble:
    """Every target frame of the support set is a member, at every lead time: (M * L, N, L*C, H, W).

    A pixel missing from some of them takes the mean of those that have it, and 0 (the mean of training) if none has.
    """
    frames, seen = (field.unflatten(1, (-1, channels)).flatten(0, 1) for field in (y, mask))  # (M * L, C, H, W)
    mean = torch.where(seen, frames, 0).sum(0) / seen.sum(0).clamp_min(1)
    members = torch.where(seen, frames, mean)
    return Ensemble(members.repeat(1, shape[1] // channels, 1, 1)[:, None].expand(-1, *shape))


@dataclass(frozen=True)
class DressedPersistence:
    """The last frame plus quantiles of persistence's own errors on the training split, per lead time and channel."""

    errors: Float[Tensor, "Q O"]

    @classmethod
    def fit(
        cls,
        windows: Iterable[tuple[Float[Tensor, "N O H W"], Float[Tensor, "N O H W"], Bool[Tensor, "N O H W"]]],
        generator: torch.Generator,
    ) -> "DressedPersistence":
        """Quantiles at (q - 1/2) / Q of y - last over random observed pixels of (last, y, mask) of training windows."""
        sample: list[list[Tensor]] = []
        for last, y, mask in windows:
            sample = sample or [[] for _ in range(y.shape[1])]
            for output, found in enumerate(sample):
                errors = (y - last)[:, output][mask[:, output]]
                if errors.numel():
                    pick = torch.randint(errors.numel(), (_ERRORS_PER_WINDOW * len(y),), generator=generator)
                    found.append(errors[pick])
        if not sample or not all(sample):
            raise ValueError("the training windows have no observed target pixel to fit persistence's errors on")
        levels = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
        return cls(torch.stack([_quantiles(torch.cat(found), levels) for found in sample], dim=1))

    def predict(self, last: Float[Tensor, "N O H W"]) -> Ensemble:
        """An ensemble of quantiles around the last frame."""
        return Ensemble(last + self.errors[:, None, :, None, None], quantiles=True)


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    ordered = values.sort().values  # torch.quantile refuses more than 16 million values
    return ordered[(levels * len(ordered)).long().clamp(max=len(ordered) - 1)]
