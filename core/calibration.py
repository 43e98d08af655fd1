"""How much wider or narrower a forecast has to be for its intervals to cover what they say.

A network is surest of what it was trained on, and too sure elsewhere; and where it is surest, in quiet sky, its errors
have the heaviest tails. Validation finds, for each output plane (lead time and channel) and each class of predicted
std, the factor on that std at which central 90 % intervals cover 90 % of the pixels. How many pixels lie inside at each
factor of a ladder adds up over episodes and ranks.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.verify.mixture import Mixture

LEVEL = 0.9
FACTORS = tuple(1.1**power for power in range(-8, 12))
STDS = tuple(0.02 * 2.0**power for power in range(7))
"""The std in the middle of each class, in standardised units; a std outside belongs to the outermost."""
_PIXELS = 1024  # of an episode's query windows, per output plane
_PSEUDO = (
    2 * _PIXELS
)  # pixels of the plane's own mean behaviour that each class is given, so that a rare one is no guess
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """The factor of each output plane, in (lead, channel) order, and class of `STDS`; by the std's log in between."""

    factor: tuple[tuple[float, ...], ...]

    def __call__(self, mixture: Mixture) -> Mixture:
        """The mixture with its std calibrated; means are kept, and a pixel's components share the pixel's factor.

        A std that is not finite stays so: whoever scores the forecast says which it was.
        """
        std = _noise(mixture)
        table = torch.tensor(self.factor, dtype=std.dtype, device=std.device).log()
        place = _place(std)
        below = place.floor().nan_to_num().clamp(max=len(STDS) - 2)
        row = below.long() + len(STDS) * torch.arange(len(table), device=std.device)[:, None, None]
        table = table.flatten()
        factor = torch.lerp(table[row], table[row + 1], place - below).exp()
        return Mixture(mixture.means, factor * mixture.std)

    @classmethod
    def fit(cls, sums: Float[np.ndarray, "F O B"]) -> Self:
        """From summed `coverage_ladder`s; between two factors by their logs.

        A plane without an observed pixel keeps its std.
        """
        planes = np.moveaxis(np.asarray(sums, np.float64), 1, 0)
        return cls(tuple(_factors(plane[:-1], plane[-1]) for plane in planes))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Of a checkpoint; older ones have one factor a plane, which is that of all classes."""
        planes = (plane if isinstance(plane, list) else [plane] * len(STDS) for plane in values["factor"])
        return cls(tuple(tuple(plane) for plane in planes))


def coverage_ladder(
    mixture: Mixture, y: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"]
) -> Float[np.ndarray, "F O B"]:
    """Of evenly spread pixels of each class, how many the 90 % interval covers at every factor, then how many are."""
    size = y.shape[0] * y.shape[2] * y.shape[3]
    spots = torch.arange(_PIXELS, dtype=torch.float64, device=y.device) * _GOLDEN % 1.0
    chosen = (spots * size).long()  # spread without a pattern that could run along a row or a column

    def sample(values: Tensor) -> Tensor:
        return values.movedim(-3, -4).flatten(-3)[..., chosen]  # (..., O, pixels)

    means, std = sample(mixture.means), sample(mixture.std.expand(mixture.means.shape))
    noise = sample(_noise(mixture).expand(1, *y.shape))[0]
    of_class = _place(noise).round().long()[..., None] == torch.arange(len(STDS), device=y.device)  # (O, pixels, B)
    target, seen = sample(torch.where(mask, y, 0.0)), sample(mask)
    inside = [(((Mixture(means, factor * std).cdf(target) - 0.5).abs() <= LEVEL / 2) & seen) for factor in FACTORS]
    rungs = [(rung[..., None] & of_class).sum(1) for rung in (*inside, seen)]
    return torch.stack(rungs).double().cpu().numpy()


def _noise(mixture: Mixture) -> Tensor:
    """The std of a pixel's noise, the components' root mean square where each has its own; broadcasts to `std`."""
    if mixture.std.ndim < mixture.means.ndim:
        return mixture.std
    return mixture.std.square().mean(0, keepdim=True).sqrt()


def _place(std: Tensor) -> Tensor:
    """Where a std lies among the classes, as a real number from 0 to the last."""
    return (std.log2() - math.log2(STDS[0])).clamp(0, len(STDS) - 1)


def _factors(inside: Float[np.ndarray, "F B"], count: Float[np.ndarray, " B"]) -> tuple[float, ...]:
    """The factors of one plane's classes."""
    if not count.any():
        return (1.0,) * len(STDS)
    typical = inside.sum(1, keepdims=True) / count.sum()
    covered = (inside + _PSEUDO * typical) / (count + _PSEUDO)
    return tuple(float(np.exp(np.interp(LEVEL, of_class, np.log(FACTORS)))) for of_class in covered.T)
