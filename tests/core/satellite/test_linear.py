import numpy as np
import pytest
import torch

from core.satellite.linear import LinearContext, covariance, optimum, simulate
from core.verify.mixture import Mixture
from core.verify.statistics import metrics, window_statistics

CONTEXT = LinearContext((1.3, -0.6), 0.9, 3.0, 0.2)
DOMAIN = (24, 30)


def test_simulated_frames_have_the_stated_covariance_in_space_and_time():
    generator = np.random.default_rng(0)
    runs = np.stack([simulate(CONTEXT, DOMAIN, 3, generator) for _ in range(400)])
    for lag, (dy, dx) in ((0, (0, 0)), (0, (2, 1)), (1, (1, -1)), (2, (3, -1)), (1, (-2, 4))):
        later = np.roll(runs[:, lag], (-dy, -dx), (1, 2))
        found = (runs[:, 0] * later).mean()
        expected = covariance(CONTEXT, DOMAIN, lag)[dy, dx] + CONTEXT.noise_std**2 * (lag == dy == dx == 0)
        assert found == pytest.approx(expected, abs=0.02)


def test_the_optimum_is_the_conditional_gaussian_of_plain_regression():
    """Least squares on many simulated windows finds the same weights and the same error."""
    generator = np.random.default_rng(1)
    best = optimum(CONTEXT, DOMAIN, tile=3, input_frames=2, target_frames=2, margin=1)
    inputs, targets = [], []
    for _ in range(500):
        run = simulate(CONTEXT, DOMAIN, 4, generator)
        for y in range(0, 24, 6):
            for x in range(0, 30, 6):
                inputs.append(np.roll(run, (-y, -x), (1, 2))[:2, :5, :5])
                targets.append(np.roll(run, (-y, -x), (1, 2))[2:, 1:4, 1:4])
    x, y = np.stack(inputs), np.stack(targets)
    assert (y - best.mean(x)).std((0, 2, 3)) == pytest.approx(best.std.mean((1, 2)), rel=0.04)
    fitted = np.linalg.lstsq(x.reshape(len(x), -1), y.reshape(len(y), -1), rcond=None)[0].T
    assert np.abs(fitted - best.weights).max() < 0.12
    assert np.corrcoef(fitted.ravel(), best.weights.ravel())[0, 1] > 0.97


def test_the_optimum_is_calibrated_and_its_crps_is_as_stated_and_below_any_other():
    generator = np.random.default_rng(2)
    best = optimum(CONTEXT, DOMAIN, tile=8, input_frames=2, target_frames=2)
    runs = np.stack([simulate(CONTEXT, DOMAIN, 4, generator) for _ in range(150)])[:, :, :8, :8]
    x, y = runs[:, :2], torch.from_numpy(runs[:, 2:])
    mask, std = torch.ones_like(y).bool(), torch.from_numpy(best.std)
    truth = Mixture(torch.from_numpy(best.mean(x))[None], std)
    found = metrics({k: v.sum(0) for k, v in window_statistics(truth, y, mask).items()})
    assert found["crps"] == pytest.approx(best.crps(), rel=0.05)
    assert found["spread_skill"] == pytest.approx([1, 1], abs=0.05)
    assert found["coverage_90"] == pytest.approx([0.9, 0.9], abs=0.02)
    wrong = optimum(LinearContext((0.0, 0.0), 0.9, 3.0, 0.2), DOMAIN, 8, 2, 2)
    last = torch.from_numpy(x[:, -1:])[None].expand(1, -1, 2, -1, -1)
    others = [
        Mixture(torch.from_numpy(wrong.mean(x))[None], torch.from_numpy(wrong.std)),
        Mixture(truth.means, 1.5 * std),
        Mixture(last, std),
    ]
    for other in others:
        crps = metrics({k: v.sum(0) for k, v in window_statistics(other, y, mask).items()})["crps"]
        assert (crps > 1.02 * found["crps"]).all()


def test_more_context_helps_and_never_hurts():
    crps = [optimum(CONTEXT, DOMAIN, 6, 2, 2, margin=m).crps() for m in (0, 2, 4)]
    assert (crps[0] > crps[1]).all()
    assert (crps[1] > crps[2]).all()


@pytest.mark.parametrize("change", [{"persistence": 1.0}, {"length": 0.0}, {"noise_std": 0.0}])
def test_what_is_no_context_is_refused(change):
    with pytest.raises(ValueError, match="linear context"):
        LinearContext(**({"velocity": (0.0, 0.0), "persistence": 0.5, "length": 2.0} | change))
