"""The predictive distribution of a learner: an equal mixture of Gaussians, one per weight sample."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from core.verify.crps import mixture_crps

_BISECTIONS = 40

CORRELATION_PIXELS = 2.0
"""Length over which the noise of a drawn member is smooth: about the texture of clouds at a few kilometres a pixel."""


@dataclass(frozen=True)
class Mixture:
    """Per pixel, p(y) = 1/S sum_s N(y; means_s, std_s^2).

    `std` broadcasts to `means`: one noise per lead time, (L*C, 1, 1), or a scale of each sample's own,
    (S, N, L*C, H, W). Everything below is elementwise; masks stay with the caller.
    """

    means: Float[Tensor, " S *shape"]
    std: Float[Tensor, "..."]

    def mean(self) -> Float[Tensor, " *shape"]:
        """Mean of the mixture."""
        return self.means.mean(0)

    def variance(self) -> Float[Tensor, " *shape"]:
        """Variance of the mixture: the samples' mean variance plus the (biased) variance of their means.

        The mixture *is* the predictive distribution, so no (S + 1) / S correction belongs here.
        """
        noise = self.std.square()
        if self.std.ndim == self.means.ndim:  # a leading axis of S, or of 1 where all samples share one scale
            noise = noise.mean(0)
        return noise + (self.means - self.means.mean(0)).square_().mean(
            0
        )  # many times as fast as `var` over a few rows

    def cdf(self, y: Float[Tensor, " *shape"] | float) -> Float[Tensor, " *shape"]:
        """P(Y <= y). At the observation this is the probability integral transform (PIT)."""
        total = torch.zeros_like(self.means[0])
        for mean, std in self._components():
            total += _normal_cdf((y - mean) / std)
        return total / len(self.means)

    def exceedance(self, threshold: float) -> Float[Tensor, " *shape"]:
        """P(Y > threshold), accurate in the upper tail too."""
        total = torch.zeros_like(self.means[0])
        for mean, std in self._components():
            total += _normal_cdf((mean - threshold) / std)
        return total / len(self.means)

    def quantile(self, probability: float) -> Float[Tensor, " *shape"]:
        """The value below which `probability` lies, by bisection between the samples' own quantiles."""
        if not 0 < probability < 1:
            raise ValueError(f"probability must lie between 0 and 1, not {probability}")
        z = float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))
        own = self.means + self.std * z
        low, high = own.amin(0), own.amax(0)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < probability
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def crps(self, y: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """CRPS of the mixture in closed form (`core.verify.crps.mixture_crps`)."""
        return mixture_crps(self.means, self.std, y)

    def nll(self, y: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
        """-log p(y) in nats per pixel, of the mixture and not of its moments."""
        log_density = ((y - self.means) / self.std).square_().mul_(-0.5) - self.std.log()
        return math.log(len(self.means)) + 0.5 * math.log(2 * math.pi) - log_density.logsumexp(0)

    def members(
        self, generator: torch.Generator | None = None, correlation_pixels: float = 0.0
    ) -> Float[Tensor, " S *shape"]:
        """One member a weight sample: means_s + std_s * eps_s, eps_s a unit-variance field (`noise_field`)."""
        noise = noise_field(self.means.shape, generator, correlation_pixels).to(self.means)
        return self.means + self.std * noise

    def first(self, count: int) -> "Mixture":
        """The mixture of its first components."""
        return Mixture(self.means[:count], self.std[:count] if self.std.ndim == self.means.ndim else self.std)

    @property
    def _own_std(self) -> bool:
        return self.std.ndim == self.means.ndim and self.std.shape[0] > 1

    def _components(self) -> Iterator[tuple[Tensor, Tensor]]:
        shared = self.std[0] if self.std.ndim == self.means.ndim else self.std
        return zip(self.means, self.std if self._own_std else [shared] * len(self.means), strict=True)


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * torch.erfc(z * -math.sqrt(0.5))  # torch.special.ndtr rounds the far tail to zero


def noise_field(
    shape: tuple[int, ...] | torch.Size, generator: torch.Generator | None = None, correlation_pixels: float = 0.0
) -> Tensor:
    """Gaussian noise of zero mean and unit variance, smooth over `correlation_pixels` in its last two axes.

    The covariance at distance d is exp(-d^2 / (2 correlation_pixels^2)), made by filtering white noise in
    Fourier space on a grid padded by four lengths, so that opposite edges are independent. It is drawn, and lies, on
    the generator's device.
    """
    device = generator.device if generator else torch.device("cpu")
    if correlation_pixels <= 0:
        return torch.randn(tuple(shape), generator=generator, device=device)
    height, width = shape[-2:]
    pad = math.ceil(4 * correlation_pixels)
    grid = (height + pad, width + pad)
    white = torch.randn((*shape[:-2], *grid), generator=generator, device=device)
    vertical, horizontal = torch.fft.fftfreq(grid[0], device=device), torch.fft.rfftfreq(grid[1], device=device)
    wavenumber = vertical[:, None].square() + horizontal[None].square()
    amplitude = torch.exp(-((math.pi * correlation_pixels) ** 2) * wavenumber)
    filtered = torch.fft.irfft2(torch.fft.rfft2(white) * amplitude, s=grid)
    power = torch.fft.irfft2(amplitude.square().to(torch.complex64), s=grid)[0, 0]
    return (filtered / power.sqrt())[..., :height, :width]
