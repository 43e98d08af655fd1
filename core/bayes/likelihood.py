"""The likelihood of target frames: Gaussian, with a learned noise per lead time.

Shape suffixes: N windows, P = L * C output channels in (lead, channel) order, "space" the image's axes (H and W, or
none for plain regression), L lead times.
"""

import math
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from core.bayes.gaussian import Tree
from core.errors import FewcastError


class Predictive(NamedTuple):
    """Mean and std of each target pixel; `std` broadcasts to `mean`."""

    mean: Tensor
    std: Tensor


@runtime_checkable
class Likelihood(Protocol):
    """What both loops need of a likelihood: parameters of its own, and a loss summed over what was observed."""

    @property
    def score(self) -> str: ...  # the loss's short name, for metrics

    def initial(self) -> Tree: ...

    def loss(self, prediction: Tensor, target: Tensor, mask: Tensor | None, parameters: Tree) -> Tensor: ...

    def predictive(self, prediction: Tensor, parameters: Tree) -> Predictive: ...


class ShapeMismatchError(FewcastError):
    """Inputs, outputs, targets and masks do not fit together."""


class GaussianLikelihood:
    """Y ~ N(f, sigma^2), one learned sigma per lead time, or one per pixel where the network also outputs a scale.

    With the score `nll` the loss is -log p = sum over unmasked pixels [ (Y - f)^2 / (2 sigma^2) + log sigma
    + 1/2 log 2 pi ], in nats.

    With `heteroscedastic` the network's output has 2 P channels: the mean, then a raw scale r with
    log sigma = log sigma_l + b tanh(r / b). The bound b keeps one inner step from driving a pixel's variance to zero,
    which is what makes plain gradient steps on such a likelihood diverge. `beta` > 0 weights each pixel by
    sigma^(2 beta), held constant (beta-NLL: Seitzer et al., ICLR 2022): it keeps the mean learning where the scale is
    large.

    With the score `crps` the loss is `score_weight` times the closed-form CRPS of N(f, sigma^2), in the target's units;
    its derivative with respect to f never exceeds `score_weight`, so inner steps stay stable at small scales.

    `image_axes` is the number of axes after the channels: 2 for images, 0 for vectors of outputs (N, P).

    The trap: with `crps`, or with beta > 0, the loss is no log likelihood. What the inner loop then finds is a
    generalised (Gibbs) posterior, proportional to prior * exp(-loss), and the objective is no ELBO.
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
        score: Literal["nll", "crps"] = "nll",
        score_weight: float = 1.0,
        image_axes: int = 2,
    ) -> None:
        if beta and not (heteroscedastic and score == "nll"):
            raise ValueError("beta-NLL weights pixels by their own scale: it needs heteroscedastic=True, score='nll'")
        self.leads, self.channels = leads, channels
        self.initial_std = initial_std
        self.heteroscedastic, self.scale_bound, self.beta = heteroscedastic, scale_bound, beta
        self.score, self.score_weight = score, score_weight
        self.image_axes = image_axes

    def initial(self) -> Tree:
        """The first parameters: log_std (L,)."""
        return {"log_std": torch.full((self.leads,), math.log(self.initial_std))}

    def loss(
        self,
        prediction: Float[Tensor, "N O *space"],
        target: Float[Tensor, "N P *space"],
        mask: Bool[Tensor, "N P *space"] | None,
        parameters: Tree,
    ) -> Float[Tensor, ""]:
        """The score summed over unmasked pixels. A masked target may hold anything, NaN included."""
        mean, log_std = self._split(prediction, parameters)
        if mean.shape != target.shape:
            raise ShapeMismatchError(
                "the network's output does not fit the targets",
                found=f"means {tuple(mean.shape)} for targets {tuple(target.shape)}",
                mend="give the network leads * channels outputs (twice that with a scale head) and the targets' size",
            )
        error = target - mean
        if mask is not None:
            error = torch.where(mask, error, 0.0)  # before any product, so that no NaN reaches a derivative
        pixel = self._crps(error, log_std) if self.score == "crps" else self._nll(error, log_std)
        return (pixel if mask is None else torch.where(mask, pixel, 0.0)).sum()

    def predictive(self, prediction: Tensor, parameters: Tree) -> Predictive:
        """Mean (..., P, *space) and std, (P, 1, 1) for images, or per pixel."""
        mean, log_std = self._split(prediction, parameters)
        return Predictive(mean, log_std.exp())

    def _nll(self, error: Tensor, log_std: Tensor) -> Tensor:
        nats = 0.5 * (error * torch.exp(-log_std)).square() + log_std + 0.5 * math.log(2 * math.pi)
        return nats * torch.exp(2 * self.beta * log_std).detach() if self.beta else nats

    def _crps(self, error: Tensor, log_std: Tensor) -> Tensor:
        """sigma [ z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi) ], z = error / sigma (Gneiting & Raftery, 2007)."""
        std, z = log_std.exp(), error * torch.exp(-log_std)
        density = math.sqrt(2 / math.pi) * torch.exp(-0.5 * z * z)
        return self.score_weight * std * (z * torch.erf(z / math.sqrt(2)) + density - 1 / math.sqrt(math.pi))

    def _split(self, prediction: Tensor, parameters: Tree) -> tuple[Tensor, Tensor]:
        log_std = parameters["log_std"][:, None].expand(-1, self.channels).reshape(-1, *[1] * self.image_axes)
        if not self.heteroscedastic:
            return prediction, log_std
        mean, raw = prediction.chunk(2, dim=-1 - self.image_axes)
        return mean, log_std + self.scale_bound * torch.tanh(raw / self.scale_bound)
