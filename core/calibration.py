"""How much wider or narrower a forecast has to be, per output plane, by the CRPS on validation episodes.

A network is surest of what it was trained on, so its std is too small elsewhere, most of all where it is small. The
cure is that of ensemble postprocessing: a floor and a factor, std'^2 = floor^2 + (factor std)^2, of minimum CRPS. Sums
of the CRPS over a ladder of both add up over episodes and ranks.

Source: Gneiting et al., Mon. Weather Rev. 2005.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.verify.crps import mixture_crps
from core.verify.mixture import Mixture

FACTORS = tuple(1.1**power for power in range(-5, 10))
FLOORS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1)  # in units of the training split's std
_PIXELS = 256  # of an episode's query windows, per output plane
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Calibration:
    """One factor and one floor (normalised units) per output plane, in (lead, channel) order."""

    factor: tuple[float, ...]
    floor: tuple[float, ...]

    def __call__(self, mixture: Mixture) -> Mixture:
        """The mixture with every component's std calibrated; means and what the members share are kept."""
        factor, floor = (
            torch.tensor(values, dtype=mixture.std.dtype, device=mixture.std.device)[:, None, None]
            for values in (self.factor, self.floor)
        )
        return Mixture(mixture.means, torch.hypot(factor * mixture.std, floor))

    @classmethod
    def fit(cls, sums: Float[np.ndarray, "F G O"]) -> Self:
        """The least of summed `crps_ladder`s, each plane by itself; between two factors by a parabola in their logs.

        A plane without an observed pixel keeps its std.
        """
        factor, floor = [], []
        for plane in np.moveaxis(np.asarray(sums, np.float64), -1, 0):
            if not plane.any():
                factor.append(1.0)
                floor.append(0.0)
                continue
            best, level = np.unravel_index(plane.argmin(), plane.shape)
            factor.append(_between(plane[:, level], int(best)))
            floor.append(FLOORS[level])
        return cls(tuple(factor), tuple(floor))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(tuple(values["factor"]), tuple(values["floor"]))


def crps_ladder(
    mixture: Mixture, y: Float[Tensor, "N O H W"], mask: Bool[Tensor, "N O H W"]
) -> Float[np.ndarray, "F G O"]:
    """Sums of the CRPS at every factor and floor over evenly spread pixels of the windows, unobserved ones left out."""
    size = y.shape[0] * y.shape[2] * y.shape[3]
    spots = torch.arange(_PIXELS, dtype=torch.float64, device=y.device) * _GOLDEN % 1.0
    chosen = (spots * size).long()  # spread without a pattern that could run along a row or a column

    def sample(values: Tensor) -> Tensor:
        return values.movedim(-3, -4).flatten(-3)[..., chosen]  # (..., O, pixels)

    means, std = sample(mixture.means), sample(mixture.std.expand(mixture.means.shape))
    target, seen = sample(torch.where(mask, y, 0.0)), sample(mask)
    shape = (len(FLOORS), *target.shape)
    floors = torch.tensor(FLOORS, dtype=std.dtype, device=std.device)[:, None, None]
    means, target = means[:, None].expand(-1, *shape), target.expand(shape)
    sums = []
    for factor in FACTORS:
        score = mixture_crps(means, torch.hypot(factor * std[:, None], floors).expand(means.shape), target)
        sums.append(torch.where(seen, score, 0.0).sum(-1, dtype=torch.float64).cpu().numpy())
    return np.stack(sums)


def _between(scores: np.ndarray, best: int) -> float:
    if not 0 < best < len(scores) - 1:
        return FACTORS[best]
    before, least, after = scores[best - 1 : best + 2]
    curvature = before - 2 * least + after
    shift = 0.5 * (before - after) / curvature if curvature > 0 else 0.0
    return float(FACTORS[best] * (FACTORS[1] / FACTORS[0]) ** shift)
