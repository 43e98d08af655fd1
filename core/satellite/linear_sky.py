"""The linear process as a sky: a mosaic of squares, each a context of its own for a day, in kelvin.

Every square is cut from a periodic domain of twice its side, so that nothing leaves on one edge and enters on the
other. A new day draws new contexts and starts anew from their stationary distribution, so that a frame is a function
of the seed and its time alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from core.satellite.linear import LinearContext, simulate

KELVIN, KELVIN_PER_STD = 270.0, 8.0  # where a count of the window channels is about 0.02 K: nothing beside the noise
FRAME_MINUTES = 30  # of the parameters in `LinearContext.draw`
MINUTES_A_DAY = 24 * 60


@dataclass(frozen=True)
class LinearSky:
    """What a thermal channel sees of squares of `region_pixels` side that tile `pixels` x `pixels`."""

    seed: int
    pixels: int
    region_pixels: int

    def context(self, time: np.datetime64, row: int, column: int) -> LinearContext:
        """The parameters of a square on the day of `time` (UTC), for frames half an hour apart."""
        return LinearContext.draw(np.random.default_rng([self.seed, 0, _day(time), row, column]))

    def at(self, time: np.datetime64, cadence_minutes: int) -> NDArray[np.float32]:
        """The frame (Y, X) in kelvin, one of those that follow midnight by whole cadences."""
        minutes = int((time - time.astype("datetime64[D]")) / np.timedelta64(1, "m"))
        return _day_of_frames(self, _day(time), cadence_minutes)[minutes // cadence_minutes]


@lru_cache(maxsize=2)
def _day_of_frames(sky: LinearSky, day: int, cadence_minutes: int) -> NDArray[np.float32]:
    side, frames = sky.region_pixels, MINUTES_A_DAY // cadence_minutes
    whole = np.empty((frames, sky.pixels, sky.pixels), np.float32)
    midnight = np.datetime64(day, "D")
    for row in range(sky.pixels // side):
        for column in range(sky.pixels // side):
            context = sky.context(midnight, row, column).every(cadence_minutes / FRAME_MINUTES)
            generator = np.random.default_rng([sky.seed, 1, day, row, column])
            field = simulate(context, (2 * side, 2 * side), frames, generator)[:, :side, :side]
            place = (slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side))
            whole[:, place[0], place[1]] = KELVIN + KELVIN_PER_STD * field
    return whole


def _day(time: np.datetime64) -> int:
    return int(time.astype("datetime64[D]").astype(np.int64))
