"""The likelihood of target frames: Gaussian, with a learned noise per lead time.

Shape suffixes: N windows, P = L * C output channels in (lead, channel) order, H and W pixels, L lead times.
"""

import math
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.bayes.gaussian import Tree


class Predictive(NamedTuple):
    """Mean and std of each target pixel; `std` broadcasts to `mean`."""

    mean: Tensor
    std: Tensor


@runtime_checkable
class Likelihood(Protocol):
    """What both loops need of a likelihood: parameters of its own, and nats summed over what was observed."""

    def initial(self) -> Tree: ...

    def nll(self, prediction: Tensor, target: Tensor, mask: Tensor | None, parameters: Tree) -> Tensor: ...

    def predictive(self, prediction: Tensor, parameters: Tree) -> Predictive: ...


class GaussianLikelihood:
    """Y ~ N(f, sigma^2), one learned sigma per lead time, or one per pixel where the network also outputs a scale.

    -log p = sum over unmasked pixels [ (Y - f)^2 / (2 sigma^2) + log sigma + 1/2 log 2 pi ].

    With `heteroscedastic` the network's output has 2 P channels: the mean, then a raw scale r with
    log sigma = log sigma_l + b tanh(r / b). The bound b keeps one inner step from driving a pixel's variance to zero,
    which is what makes plain gradient steps on such a likelihood diverge. `beta` > 0 weights each pixel by
    sigma^(2 beta), held constant (beta-NLL: Seitzer et al., ICLR 2022): it keeps the mean learning where the scale is
    large. The result is then no log likelihood, so the objective is no ELBO.
    """

    def __init__(
        self,
        leads: int,
        channels: int = 1,
        *,
        initial_std: float = 0.5,
        heteroscedastic: bool = False,
        scale_bound: float = 2.0,
        beta: float = 0.0,
    ) -> None:
        if beta and not heteroscedastic:
            raise ValueError("beta-NLL weights pixels by their own scale: it needs heteroscedastic=True")
        self.leads, self.channels = leads, channels
        self.initial_std = initial_std
        self.heteroscedastic, self.scale_bound, self.beta = heteroscedastic, scale_bound, beta

    def initial(self) -> Tree:
        """The first parameters: log_std (L,)."""
        return {"log_std": torch.full((self.leads,), math.log(self.initial_std))}

    def nll(
        self,
        prediction: Float[Tensor, "N O H W"],
        target: Float[Tensor, "N P H W"],
        mask: Bool[Tensor, "N P H W"] | None,
        parameters: Tree,
    ) -> Float[Tensor, ""]:
        """Nats summed over unmasked pixels. A masked target may hold anything, NaN included."""
        mean, log_std = self._split(prediction, parameters)
        error = target - mean
        if mask is not None:
            error = torch.where(mask, error, 0.0)  # before the square, so that no NaN reaches a derivative
        pixel = 0.5 * (error * torch.exp(-log_std)).square() + log_std + 0.5 * math.log(2 * math.pi)
        if self.beta:
            pixel = pixel * torch.exp(2 * self.beta * log_std).detach()
        return (pixel if mask is None else torch.where(mask, pixel, 0.0)).sum()

    def predictive(self, prediction: Tensor, parameters: Tree) -> Predictive:
        """Mean (..., P, H, W) and std, (P, 1, 1) or per pixel."""
        mean, log_std = self._split(prediction, parameters)
        return Predictive(mean, log_std.exp())

    def _split(self, prediction: Tensor, parameters: Tree) -> tuple[Tensor, Tensor]:
        log_std = parameters["log_std"].repeat_interleave(self.channels)[:, None, None]
        if not self.heteroscedastic:
            return prediction, log_std
        mean, raw = prediction.chunk(2, dim=-3)
        return mean, log_std + self.scale_bound * torch.tanh(raw / self.scale_bound)
