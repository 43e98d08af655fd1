"""A forecast that is known only by its members."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from core.verify.crps import ensemble_crps


@runtime_checkable
class Prediction(Protocol):
    """What verification asks of a forecast distribution; everything is elementwise and masks stay with the caller."""

    def mean(self) -> Tensor: ...

    def variance(self) -> Tensor: ...

    def crps(self, y: Tensor) -> Tensor: ...

    def cdf(self, y: Tensor) -> Tensor: ...

    def exceedance(self, threshold: float) -> Tensor: ...


@dataclass(frozen=True)
class Ensemble:
    """S members, exchangeable draws unless `quantiles` says that they are equally likely quantiles.

    Draws are scored by the fair CRPS, which does not punish a small S; quantiles are the distribution
    themselves, so they are scored as they are. One member is a point forecast.
    """

    members: Float[Tensor, " S *shape"]
    quantiles: bool = False
    seed: int = field(default=0)

    def mean(self) -> Float[Tensor, " *shape"]:
        """Mean of the members."""
        return self.members.mean(0)

    def variance(self) -> Float[Tensor, " *shape"]:
        """The squared error that the mean of a reliable ensemble has: (S + 1) / S times the members' variance."""
        n = len(self.members)
        square = (self.members - self.members.mean(0)).square_().mean(0)  # many times as fast as `var` over a few rows
        return square if n == 1 or self.quantiles else square * ((n + 1) / (n - 1))

    def crps(self, y: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """CRPS, fair for draws."""
        fair = ensemble_crps(self.members, y)
        if not self.quantiles:
            return fair
        error, n = (self.members - y).abs().mean(0), len(self.members)
        return error - (error - fair) * ((n - 1) / n)

    def cdf(self, y: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """Randomised PIT: uniform when y is a draw of the forecast distribution, ties broken at random.

        Draws: (members below y + u (members equal to y + 1)) / (S + 1), u uniform and seeded. Quantiles: the member
        of rank i stands for the probabilities from (i - 1/2) / S on, so the two outer bins are half as wide.
        """
        n = len(self.members)
        below, equal = (found.sum(0, dtype=torch.int16).to(y.dtype) for found in (self.members < y, self.members == y))
        u = torch.rand(y.shape, generator=torch.Generator().manual_seed(self.seed), dtype=y.dtype).to(y.device)
        if not self.quantiles:
            return (below + u * (equal + 1)) / (n + 1)
        low, high = (below - 0.5).clamp(0, n), (below + equal + 0.5).clamp(0, n)
        return (low + u * (high - low)) / n

    @property
    def is_point(self) -> bool:
        """Whether there is a single member, which has neither spread nor intervals."""
        return len(self.members) == 1

    def exceedance(self, threshold: float) -> Float[Tensor, " *shape"]:
        """Share of members above the threshold."""
        return (self.members > threshold).to(self.members.dtype).mean(0)
