"""A linear stochastic process whose optimal forecast is known in closed form: the truth to measure learners against.

On a periodic domain each wave of wavenumber k is a complex autoregression,

    z_{t+1}(k) = a exp(-2 pi i k . u) z_t(k) + sqrt(1 - a^2) s(k) w_t(k),

so the field drifts by u pixels a frame, forgets with persistence a, and is at all times Gaussian with the covariance
K whose spectrum is s^2; a frame observed is that field plus white noise. Every covariance between two pixels and two
times is then a^|dt| K(dx - u dt), and the best forecast of any targets from any inputs is the conditional Gaussian.
The parameters (u, a, length, noise) belong to a context: they are what adaptation has to find.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fft2, ifft2
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]

FASTEST = 0.7  # pixels a frame


@dataclass(frozen=True)
class LinearContext:
    """One context's true parameters. The field has unit variance; `noise_std` is that of the observation."""

    velocity: tuple[float, float]  # pixels a frame, (down, right); any fraction
    persistence: float  # a, between 0 and 1
    length: float  # pixels; K(d) falls roughly as exp(-d / length)
    noise_std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.persistence < 1 or self.length <= 0 or self.noise_std <= 0:
            raise ValueError("a linear context needs 0 <= persistence < 1, length > 0 and noise_std > 0")

    @classmethod
    def draw(cls, generator: np.random.Generator) -> "LinearContext":
        """Another context, its frames half an hour apart: still or drifting, fleeting or lasting, fine or coarse."""
        angle, speed = generator.uniform(0, 2 * math.pi), FASTEST * math.sqrt(generator.uniform())
        return cls(
            (speed * math.sin(angle), speed * math.cos(angle)),
            float(generator.uniform(0.8, 0.98)),
            float(np.exp(generator.uniform(math.log(1.5), math.log(4.0)))),
            float(np.exp(generator.uniform(math.log(0.05), math.log(0.5)))),
        )

    def every(self, frames: float) -> "LinearContext":
        """The same process seen every so many frames, or every fraction of one."""
        velocity = (frames * self.velocity[0], frames * self.velocity[1])
        return replace(self, velocity=velocity, persistence=self.persistence**frames)


def spectrum(context: LinearContext, shape: tuple[int, int]) -> Array:
    """s^2 (Y, X) at the FFT's wavenumbers, such that the field has unit variance: a Matern field's of order 1/2."""
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    density = (1 + (2 * np.pi * context.length) ** 2 * (ky**2 + kx**2)) ** -1.5
    return np.asarray(density / density.sum())


def covariance(context: LinearContext, shape: tuple[int, int], lag: int) -> Array:
    """Covariance (Y, X) of a pixel at time 0 with those `lag` >= 0 frames later, at each periodic offset."""
    return np.asarray(fft2(spectrum(context, shape) * np.conj(_step(context, shape, lag))).real)


def simulate(context: LinearContext, shape: tuple[int, int], frames: int, generator: np.random.Generator) -> Array:
    """Observed frames (frames, Y, X), stationary from the first on."""
    amplitude = np.sqrt(spectrum(context, shape)) * math.sqrt(shape[0] * shape[1])
    advance, kick = _step(context, shape, 1), math.sqrt(1 - context.persistence**2)
    waves = amplitude * fft2(generator.normal(size=(frames, *shape)))
    for t in range(1, frames):
        waves[t] = advance * waves[t - 1] + kick * waves[t]
    return np.asarray(ifft2(waves).real + context.noise_std * generator.normal(size=waves.shape))


@dataclass(frozen=True)
class Optimum:
    """The predictive distribution that no forecast from the same inputs can better: N(weights @ inputs, std^2)."""

    weights: Array  # (L * Y * X of the tile, k * Y * X of the inputs)
    std: Array  # (L, Y, X), of the observed target, its noise included
    shape: tuple[int, int]

    def mean(self, inputs: Array) -> Array:
        """Mean (N, L, Y, X) from inputs (N, k, Y_in, X_in)."""
        flat = inputs.reshape(len(inputs), -1) @ self.weights.T
        return flat.reshape(len(inputs), -1, *self.shape)

    def crps(self) -> Array:
        """Expected CRPS (L,) of the optimum: std / sqrt(pi), averaged over the tile."""
        return np.asarray(self.std.mean((1, 2)) / math.sqrt(math.pi))


def optimum(
    context: LinearContext, domain: tuple[int, int], tile: int, input_frames: int, target_frames: int, margin: int = 0
) -> Optimum:
    """The conditional Gaussian of a tile's targets given its `input_frames`, seen with a margin.

    Inputs are (input_frames, tile + 2 margin, tile + 2 margin) pixels; the cost is the cube of their number, so tiles
    are small. `domain` is the periodic domain that the frames were simulated on.
    """
    outer = tile + 2 * margin
    pixels = np.stack(np.meshgrid(np.arange(outer), np.arange(outer), indexing="ij"), -1).reshape(-1, 2)
    inside = pixels[((pixels >= margin) & (pixels < margin + tile)).all(1)]
    lags = [covariance(context, domain, lag) for lag in range(input_frames + target_frames)]

    def block(later: NDArray[np.int_], earlier: NDArray[np.int_], lag: int) -> Array:
        offset = later[:, None] - earlier[None]
        return lags[lag][offset[..., 0] % domain[0], offset[..., 1] % domain[1]]

    k, n = input_frames, len(pixels)
    among = np.empty((k * n, k * n))
    for s in range(k):
        for t in range(s + 1):
            part = block(pixels, pixels, s - t)
            among[s * n : (s + 1) * n, t * n : (t + 1) * n] = part
            among[t * n : (t + 1) * n, s * n : (s + 1) * n] = part.T
    among[np.diag_indices(k * n)] += context.noise_std**2
    across = np.concatenate(
        [np.concatenate([block(inside, pixels, k + lead - t) for t in range(k)], 1) for lead in range(target_frames)]
    )
    weights = cho_solve(cho_factor(among, lower=True), across.T).T
    variance = 1 + context.noise_std**2 - (weights * across).sum(1)
    return Optimum(weights, np.sqrt(variance).reshape(target_frames, tile, tile), (tile, tile))


def _step(context: LinearContext, shape: tuple[int, int], lag: int) -> NDArray[np.complex128]:
    """What a wave is multiplied by in `lag` frames.

    A shift by a fraction of a pixel has no real-valued Nyquist wave, so those waves do not drift.
    """
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None]
    phase = (
        np.where(np.abs(ky) == 0.5, 0, ky) * context.velocity[0]
        + np.where(np.abs(kx) == 0.5, 0, kx) * context.velocity[1]
    )
    return np.asarray((context.persistence * np.exp(-2j * np.pi * phase)) ** lag)
