"""A known, endless sky: clouds that are born, move, turn, grow and decay by laws that differ from place to place.

Each cloud cell is drawn from a seed that is a function of its hour of birth, so the sky of any instant is computed
without the ones before it. The region that a cell is born in decides its laws:

    speed, heading, turning     how it moves: a circular arc
    lifetime, skew              its optical depth follows sin^2(pi (age / lifetime)^skew)
    period                      waves make it swell and shrink, each cell with its own phase
    rate, swing, phase          how many are born, and when in the day

Above all this pass air masses, which warm or cool a region's whole column for a day or two.

A few noisy frames show roughly where clouds go, but hardly how long they live, whether they grow early or late, the
period of their swelling, how their paths bend, or when the next are born. Several windows of the same place show it:
this is what adaptation has to learn, and what an expert on the place would know.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 500
MARGIN = 90
AIR_MASS_KELVIN, AIR_MASS_HOURS = 12.0, 66.0
REGIONS = 5
BIRTHS_PER_HOUR = 64
LONGEST_LIFE = 18.0
PULSE = 0.6
HOURS_EAST = 128.2 / 15

Field = NDArray[np.float32]


class Sky(NamedTuple):
    """What is above one place at one instant, each (Y, X): emissivity of two cloud layers, temperatures in kelvin.

    `air_mass` is how much warmer than usual the whole column is.
    """

    low: Field
    high: Field
    surface: Field
    moisture: Field
    noise: Field
    sun: float
    air_mass: Field


@dataclass(frozen=True)
class Layer:
    """Typical values of one cloud layer; pixels are 2 km."""

    speed: tuple[float, float]
    lifetime: tuple[float, float]
    radius: tuple[float, float]
    depth: float


LAYERS = (
    Layer(speed=(1.5, 6.0), lifetime=(4.0, 14.0), radius=(6.0, 20.0), depth=0.9),
    Layer(speed=(2.0, 8.0), lifetime=(3.0, 14.0), radius=(8.0, 24.0), depth=1.1),
)


class Laws(NamedTuple):
    """What governs the cells of one layer, each a lattice of regions."""

    speed: NDArray[np.float64]
    heading: NDArray[np.float64]
    turning: NDArray[np.float64]
    lifetime: NDArray[np.float64]
    skew: NDArray[np.float64]
    period: NDArray[np.float64]
    rate: NDArray[np.float64]
    swing: NDArray[np.float64]
    phase: NDArray[np.float64]


class Cells(NamedTuple):
    """The cells born in one hour, each (N,); pixels and hours."""

    born: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    speed: NDArray[np.float64]
    heading: NDArray[np.float64]
    turning: NDArray[np.float64]
    lifetime: NDArray[np.float64]
    skew: NDArray[np.float64]
    period: NDArray[np.float64]
    beat: NDArray[np.float64]
    depth: NDArray[np.float64]
    width: NDArray[np.float64]
    height: NDArray[np.float64]


class Truth:
    """The sky over a square of `side` pixels of 2 km, as a function of time alone."""

    def __init__(self, seed: int, side: int = SIDE) -> None:
        self.seed = seed
        self.side = side
        generator = np.random.default_rng([seed, 0])
        self.laws = [_laws(generator, layer) for layer in LAYERS]
        axis = np.arange(side) + 0.5
        self.axis = axis
        grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
        self.land = (_interpolate(generator.normal(size=(7, 7)), grid_y, grid_x) > 0).astype(np.float32)
        self.warmth = (
            290 + 10 * (grid_y / SIDE - 0.5) + 1.5 * _interpolate(generator.normal(size=(7, 7)), grid_y, grid_x)
        ).astype(np.float32)
        self.moist = _interpolate(generator.normal(size=(5, 5)), grid_y, grid_x).astype(np.float32)
        self.noise = np.exp(_interpolate(generator.uniform(-1.5, 1.2, (REGIONS, REGIONS)), grid_y, grid_x)).astype("f4")
        self.air_masses = [
            _interpolate(generator.normal(0, AIR_MASS_KELVIN, (3, 3)), grid_y, grid_x).astype(np.float32)
            for _ in range(2)
        ]
        self.births = lru_cache(maxsize=64)(self._draw_births)

    def at(self, time: np.datetime64) -> Sky:
        """The sky at an instant (UTC)."""
        hours = float((time - np.datetime64("2000-01-01T00:00:00")) / np.timedelta64(1, "s")) / 3600
        low, high = (1 - np.exp(-self.optical_depth(layer, hours)) for layer in range(len(LAYERS)))
        local = (hours + HOURS_EAST) % 24
        day = np.cos(2 * np.pi * (local - 13.5) / 24)
        season = np.cos(2 * np.pi * (hours / 24 / 365.25 - 0.55))
        surface = self.warmth + np.float32(8 * season) + self.land * np.float32(3 * day) - (1 - self.land) * 1.5
        sun = float(np.cos(2 * np.pi * (local - 12) / 24) * 0.8 + 0.1 * season)
        moisture = self.moist * np.float32(np.cos(2 * np.pi * hours / 31))
        turn = 2 * np.pi * hours / AIR_MASS_HOURS
        air_mass: Field = self.air_masses[0] * np.float32(np.cos(turn)) + self.air_masses[1] * np.float32(np.sin(turn))
        return Sky(low, high, surface, moisture, self.noise, sun, air_mass)

    def optical_depth(self, layer: int, hours: float) -> Field:
        """Sum over living cells of depth * Gaussian(y) * Gaussian(x): one matrix product."""
        first = int(np.floor(hours - LONGEST_LIFE))
        parts = [self.births(layer, hour) for hour in range(first, int(np.floor(hours)) + 1)]
        cells = Cells(*(np.concatenate(values) for values in zip(*parts, strict=True)))
        age = hours - cells.born
        alive = (age > 0) & (age < cells.lifetime)
        cells = Cells(*(values[alive] for values in cells))
        age = age[alive]
        share = (age / cells.lifetime) ** cells.skew
        pulse = 1 + PULSE * np.sin(2 * np.pi * age / cells.period + cells.beat)
        weight = cells.depth * np.sin(np.pi * share) ** 2 * pulse
        turned = cells.turning * age
        # The chord of an arc: sin(turned / 2) / (turned / 2) of its length, half turned from the first heading.
        length = cells.speed * age * np.sinc(turned / 2 / np.pi)
        x = cells.x + length * np.cos(cells.heading + turned / 2)
        y = cells.y - length * np.sin(cells.heading + turned / 2)
        spread = 0.7 + 0.6 * share
        along_x = np.exp(-0.5 * ((self.axis[None] - x[:, None]) / (cells.width * spread)[:, None]) ** 2)
        along_y = np.exp(-0.5 * ((self.axis[None] - y[:, None]) / (cells.height * spread)[:, None]) ** 2)
        depth: Field = (along_y * weight[:, None]).astype("f4").T @ along_x.astype("f4")
        return depth

    def _draw_births(self, layer: int, hour: int) -> Cells:
        """The cells of a layer that are born within an hour, counted from 2000-01-01 00:00."""
        kind, laws = LAYERS[layer], self.laws[layer]
        generator = np.random.default_rng([self.seed, 1, layer, hour])
        n = BIRTHS_PER_HOUR
        x, y = generator.uniform(-MARGIN, SIDE + MARGIN, (2, n))
        born = hour + generator.uniform(size=n)
        local = Laws(*(_of_region(values, y, x) for values in laws))
        daily = np.cos(2 * np.pi * ((born + HOURS_EAST) % 24) / 24 - local.phase)
        kept = generator.uniform(size=n) < local.rate * (1 + local.swing * daily)
        jitter = np.exp(generator.normal(0, (0.12, 0.15, 0.35), (n, 3)))
        depth = kind.depth * jitter[:, 2]
        veer = 0.5 * np.sin(2 * np.pi * hour / 24 / 365.25)
        width, height = generator.uniform(*kind.radius, (2, n))
        lifetime = np.minimum(local.lifetime * jitter[:, 1], LONGEST_LIFE)
        beat = generator.uniform(0, 2 * np.pi, n)
        heading = local.heading + veer + generator.normal(0, 0.08, n)
        cells = Cells(born, x, y, local.speed * jitter[:, 0], heading, local.turning, lifetime, local.skew,
                      local.period, beat, depth, width, height)  # fmt: skip
        return Cells(*(values[kept] for values in cells))


def _laws(generator: np.random.Generator, layer: Layer) -> Laws:
    shape = (REGIONS, REGIONS)
    main = generator.uniform(0, 2 * np.pi)
    return Laws(
        speed=generator.uniform(*layer.speed, shape),
        heading=main + generator.uniform(-2.0, 2.0, shape),
        turning=generator.uniform(-0.25, 0.25, shape),
        lifetime=np.exp(generator.uniform(np.log(layer.lifetime[0]), np.log(layer.lifetime[1]), shape)),
        skew=np.exp(generator.uniform(-1.0, 1.0, shape)),
        period=np.exp(generator.uniform(np.log(3.0), np.log(14.0), shape)),
        rate=generator.uniform(0.15, 0.75, shape),
        swing=generator.uniform(0.1, 0.9, shape),
        phase=generator.uniform(0, 2 * np.pi, shape),
    )


def _of_region(lattice: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The value of the region that a point lies in; outside the domain, of the nearest region."""
    row, column = (np.clip(at / SIDE * len(lattice), 0, len(lattice) - 1).astype(int) for at in (y, x))
    return lattice[row, column]


def _interpolate(lattice: NDArray[np.float64], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bilinear in a lattice whose corners are the domain's, held constant outside."""
    rows, columns = lattice.shape
    at_y = np.clip(y / SIDE, 0, 1) * (rows - 1)
    at_x = np.clip(x / SIDE, 0, 1) * (columns - 1)
    top = np.minimum(at_y.astype(int), rows - 2)
    left = np.minimum(at_x.astype(int), columns - 2)
    down, right = at_y - top, at_x - left
    upper = lattice[top, left] * (1 - right) + lattice[top, left + 1] * right
    lower = lattice[top + 1, left] * (1 - right) + lattice[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
