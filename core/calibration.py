"""How much wider or narrower a forecast has to be, per output plane, for its intervals to cover what they say.

A network is surest of what it was trained on, and too sure elsewhere. Validation finds, for each lead time and channel,
the factor on the predictive std at which central 90 % intervals cover 90 % of the pixels. How many pixels lie inside at
each factor of a ladder adds up over episodes and ranks.
"""

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
_PIXELS = 1024  # of an episode's query windows, per output plane
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """One factor per output plane, in (lead, channel) order."""

    factor: tuple[float, ...]

    def __call__(self, mixture: Mixture) -> Mixture:
        """The mixture with every component's std calibrated; means and what the members share are kept."""
        factor = torch.tensor(self.factor, dtype=mixture.std.dtype, device=mixture.std.device)
        return Mixture(mixture.means, factor[:, None, None] * mixture.std)

    @classmethod
    def fit(cls, sums: Float[np.ndarray, "F O"]) -> Self:
        """From summed `coverage_ladder`s, each plane by itself; between two factors by their logs.

        A plane without an observed pixel keeps its std.
        """
        *inside, count = np.asarray(sums, np.float64)
        covered = np.stack(inside) / np.maximum(count, 1)
        logs = np.log(FACTORS)
        found = [np.exp(np.interp(LEVEL, plane, logs)) for plane in covered.T]
        return cls(tuple(float(f) if n else 1.0 for f, n in zip(found, count, strict=True)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(tuple(values["factor"]))


def coverage_ladder(
    mixture: Mixture, y: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"]
) -> Float[np.ndarray, "F O"]:
    """How many of evenly spread pixels the 90 % interval covers at every factor, then how many of them are observed."""
    size = y.shape[0] * y.shape[2] * y.shape[3]
    spots = torch.arange(_PIXELS, dtype=torch.float64, device=y.device) * _GOLDEN % 1.0
    chosen = (spots * size).long()  # spread without a pattern that could run along a row or a column

    def sample(values: Tensor) -> Tensor:
        return values.movedim(-3, -4).flatten(-3)[..., chosen]  # (..., O, pixels)

    means, std = sample(mixture.means), sample(mixture.std.expand(mixture.means.shape))
    target, seen = sample(torch.where(mask, y, 0.0)), sample(mask)
    inside = [
        (((Mixture(means, factor * std).cdf(target) - 0.5).abs() <= LEVEL / 2) & seen).sum(-1) for factor in FACTORS
    ]
    return torch.stack([*inside, seen.sum(-1)]).double().cpu().numpy()
