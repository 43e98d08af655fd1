"""How each AMI band sees the simulated sky, and the raw counts that it sends down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.satellite.truth import Sky

LIGHT, BOLTZMANN, PLANCK = 2.9979245800e08, 1.3806488000e-23, 6.6260695700e-34


@dataclass(frozen=True)
class Band:
    """One band's calibration, and how it sees the sky.

    Infrared: Tbb = c0 + c1 Teff + c2 Teff^2; `clear` is the share of surface radiation that reaches space and `air` (K)
    the temperature of the rest. Visible: `clear` is the surface's reflectance factor and `air` that of thick cloud.
    """

    wavelength: float
    bits: int
    gain: float
    offset: float
    clear: float
    air: float
    albedo: float = 0.0
    c: tuple[float, float, float] = (0.0, 1.0, 0.0)
    finer: int = 1

    @property
    def infrared(self) -> bool:
        return self.albedo == 0


BANDS = {
    "vi004": Band(0.47, 11, 0.363545805, -7.270904541, 0.10, 0.80, albedo=0.0015582450, finer=2),
    "vi005": Band(0.509, 11, 0.343625486, -6.872497559, 0.09, 0.80, albedo=0.0016595767, finer=2),
    "vi006": Band(0.639, 12, 0.154856294, -6.194244385, 0.08, 0.82, albedo=0.0019244840, finer=4),
    "vi008": Band(0.863, 13, 0.045724172, -3.657928467, 0.18, 0.80, albedo=0.0032723873, finer=2),
    "nr013": Band(1.37, 12, 0.034687810, -1.387512207, 0.01, 0.45, albedo=0.0087081313),
    "nr016": Band(1.61, 11, 0.049800798, -0.996017456, 0.16, 0.50, albedo=0.0129512876),
    "sw038": Band(3.83, 14, -0.00108296517, 17.6999874, 0.95, 285, c=(-0.447843940, 1.000655681, -6.3382409e-08)),
    "wv063": Band(6.21, 12, -0.0108914673, 44.1777038, 0.00, 237, c=(-1.762794940, 1.004149106, -9.8331091e-07)),
    "wv069": Band(6.94, 13, -0.00818779878, 66.7480774, 0.02, 247, c=(-0.334311414, 1.000973599, -4.9460307e-07)),
    "wv073": Band(7.33, 13, -0.00969827175, 79.0608521, 0.10, 257, c=(-0.061312486, 1.000190087, -1.0586366e-07)),
    "ir087": Band(8.59, 13, -0.0144806551, 118.0509033, 0.90, 280, c=(-0.141418528, 1.000522329, -3.6287276e-07)),
    "ir096": Band(9.62, 13, -0.0178435463, 145.4648743, 0.55, 250, c=(-0.114017728, 1.000473806, -3.7493151e-07)),
    "ir105": Band(10.35, 13, -0.0198196955, 161.5801392, 0.96, 282, c=(-0.142866448, 1.000640696, -5.5044329e-07)),
    "ir112": Band(11.23, 13, -0.0216744859, 176.7134399, 0.94, 281, c=(-0.249111718, 1.001211669, -1.1316796e-06)),
    "ir123": Band(12.36, 13, -0.0233789725, 190.6496277, 0.90, 279, c=(-0.458113886, 1.002455210, -2.5306431e-06)),
    "ir133": Band(13.29, 13, -0.0243037567, 198.2243652, 0.50, 258, c=(-0.093852157, 1.000539821, -5.9491372e-07)),
}
HIGH_TOP, LOW_TOP = 218.0, 268.0


def noise_of(seed: int, channel: str, time: np.datetime64) -> np.random.Generator:
    """The generator of one granule's noise."""
    return np.random.default_rng([seed, 2, *channel.encode(), int(time.astype("datetime64[m]").astype(np.int64))])


WANDER_KELVIN = 0.5
"""Std of the offset that all pixels of a scan share."""


def observe(band: Band, sky: Sky, generator: np.random.Generator) -> NDArray[np.float32]:
    """A sky as a band sees it, with noise and a wandering offset: kelvin, or percent of reflectance (Y, X)."""
    noise = generator.standard_normal(sky.low.shape, dtype=np.float32) * sky.noise
    if band.infrared:
        below = (1 - sky.low) * sky.surface + sky.low * LOW_TOP
        air = band.air + 4 * sky.moisture * (1 - band.clear)
        clear = band.clear * below + (1 - band.clear) * air
        top = min(HIGH_TOP, band.air)
        wander = np.float32(WANDER_KELVIN * generator.standard_normal())
        return np.asarray((1 - sky.high) * clear + sky.high * top + sky.air_mass + wander + noise, np.float32)
    cloud = np.maximum(0.8 * sky.low, sky.high)
    return np.asarray(
        100 * max(sky.sun, 0.0) * (band.clear + (band.air - band.clear) * cloud) + 0.3 * noise, np.float32
    )


def to_counts(band: Band, values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The raw counts whose calibration by the file's constants gives these values: the inverse of the reader."""
    exact = values.astype(np.float64)
    if band.infrared:
        c0, c1, c2 = band.c
        effective = (np.sqrt(c1**2 - 4 * c2 * (c0 - exact)) - c1) / (2 * c2)
        nu = 1e6 / band.wavelength
        ratio = np.expm1(PLANCK * LIGHT * nu / BOLTZMANN / effective)
        radiance = 2 * PLANCK * LIGHT**2 * nu**3 / ratio * 1e5
    else:
        radiance = exact / 100 / band.albedo
    return np.clip(np.rint((radiance - band.offset) / band.gain), 1, 2**band.bits - 1).astype(np.uint16)
