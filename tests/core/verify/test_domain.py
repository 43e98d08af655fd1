"""The baselines that see the whole domain, on frames whose future is known."""

import numpy as np
import pytest

from core.verify.domain import StepsSettings, steps

SCALE = {"kilometres_per_pixel": 4.0, "minutes_per_frame": 30.0}


@pytest.mark.parametrize("constant", [(0, 1, 2, 3), (3,), (2,)])
def test_steps_of_a_frame_without_variation_is_the_last_frame(constant):
    frames = np.random.default_rng(0).normal(size=(4, 30, 41))
    frames[list(constant)] = 1.5
    found = steps(frames, 3, 2, StepsSettings(), 0, **SCALE)
    assert found.shape == (2, 3, 30, 41)
    np.testing.assert_allclose(found, np.broadcast_to(frames[-1], found.shape), rtol=1e-6)
