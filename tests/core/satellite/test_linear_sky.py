"""The linear process as granules: what is read back is the process, and its optimum stays the optimum."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from core.config import IngestConfig
from core.errors import FewcastError
from core.satellite import simulator, source
from core.satellite.linear import LinearContext, optimum
from core.satellite.linear_sky import KELVIN, KELVIN_PER_STD, LinearSky
from core.verify.mixture import Mixture
from core.verify.statistics import metrics, window_statistics

SIDE, PIXELS = 8, 32


def config(root, simulator=None, **changes):
    base = {
        "source": str(root),
        "channels": ["ir105"],
        "times": {"start": "2024-03-01T00:00", "end": "2024-03-02T00:00"},
        "origin": "2024-01-01T00:00",
        "cadence_minutes": 60,
        "simulator": {"enabled": True, "process": "linear", "seed": 3, "pixels": PIXELS, "region_pixels": SIDE}
        | (simulator or {}),
    }
    return IngestConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A day of frames (24, Y, X) in kelvin, through granules and our own reader."""
    settings = config(tmp_path_factory.mktemp("granules"))
    assert len(simulator.simulate(settings)) == 24
    granules = source.list_granules(settings)
    grid = source.archive_grid(granules[:1], settings)
    return np.stack([source.read_frame(granule, settings, grid).values for granule in granules])


def test_granules_hold_the_process_to_a_rounding_that_is_nothing_beside_its_noise(frames):
    sky = LinearSky(3, PIXELS, SIDE)
    truth = np.stack([sky.at(np.datetime64("2024-03-01", "m") + np.timedelta64(h, "h"), 60) for h in range(24)])
    error = (frames - truth) / KELVIN_PER_STD
    assert np.abs(frames - truth).max() < 0.05
    assert error.var() < 1e-3 * 0.05**2  # a thousandth of the least variance that the noise has


def test_the_optimum_of_each_squares_true_parameters_is_calibrated_on_what_was_read(frames):
    """Its expected and its actual CRPS agree; another square's parameters do worse."""
    sky, day = LinearSky(3, PIXELS, SIDE), np.datetime64("2024-03-01")
    field = torch.from_numpy((frames - KELVIN) / KELVIN_PER_STD).double()
    right: list[dict[str, np.ndarray]] = []
    wrong: list[dict[str, np.ndarray]] = []
    expected = []
    for row in range(4):
        for column in range(4):
            place = (slice(None), slice(row * SIDE, (row + 1) * SIDE), slice(column * SIDE, (column + 1) * SIDE))
            inputs, y = field[:-1][place][:, None], field[1:][place][:, None]
            for found, other in ((right, 0), (wrong, 1)):
                context = sky.context(day, row, (column + other) % 4).every(2.0)  # half hours to hours
                best = optimum(context, (2 * SIDE, 2 * SIDE), SIDE, 1, 1)
                forecast = Mixture(torch.from_numpy(best.mean(inputs.numpy()))[None], torch.from_numpy(best.std))
                found.append(window_statistics(forecast, y, torch.ones_like(y).bool()))
                if other == 0:
                    expected.append(best.crps()[0])
    good, bad = (metrics({k: np.sum([s[k].sum() for s in rows]) for k in rows[0]}) for rows in (right, wrong))
    assert good["crps"] == pytest.approx(np.mean(expected), rel=0.03)
    assert good["spread_skill"] == pytest.approx(1, abs=0.03)
    assert good["coverage_90"] == pytest.approx(0.9, abs=0.01)
    assert bad["crps"] > 1.05 * good["crps"]


def test_a_frame_is_a_function_of_its_time_and_a_square_has_other_parameters_each_day():
    sky, noon = LinearSky(3, PIXELS, SIDE), np.datetime64("2024-03-01T12:00", "s")
    LinearSky(3, PIXELS, SIDE).at(noon + np.timedelta64(1, "D"), 60)
    assert (sky.at(noon, 60) == LinearSky(3, PIXELS, SIDE).at(noon, 60)).all()
    assert sky.context(noon, 1, 2) != sky.context(noon + np.timedelta64(1, "D"), 1, 2)
    assert sky.context(noon, 1, 2) != sky.context(noon, 2, 1)
    assert sky.context(noon, 1, 2) == sky.context(noon.astype("datetime64[D]"), 1, 2)


def test_a_process_seen_every_other_frame_is_itself_with_twice_the_drift_and_decay():
    context = LinearContext((0.5, -0.25), 0.9, 3.0, 0.2)
    assert context.every(2) == LinearContext((1.0, -0.5), 0.81, 3.0, 0.2)
    both = [optimum(c, (24, 24), 8, 1, leads).std[-1] for c, leads in ((context, 2), (context.every(2), 1))]
    assert both[0] == pytest.approx(both[1], rel=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"sector": "fd"},
        {"channels": ["ir105", "ir112"]},
        {"channels": ["vi006"]},
        {"block": 2},
        {"cadence_minutes": 7},
        {"origin": "2024-01-01T00:15"},
        {"simulator": {"faults": 0.1}},
    ],
)
def test_what_would_spoil_the_closed_form_is_refused(tmp_path, change):
    with pytest.raises(FewcastError, match="linear process is one infrared channel"):
        simulator.simulate(config(tmp_path, **change))


def test_squares_that_do_not_tile_the_area_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="no whole number of squares of 12"):
        config(tmp_path, simulator={"region_pixels": 12})
