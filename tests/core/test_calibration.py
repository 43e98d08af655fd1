"""The calibration of forecasts: what was put into simulated errors is found again, and forecasts use it."""

import json

import numpy as np
import pytest
import torch

from core.calibration import FACTORS, STDS, Calibration, coverage_ladder
from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.meta.checks import Examples
from core.model import Model
from core.training.train import train
from core.verify.mixture import Mixture


def simulated(factor: float, seed: int, members: int = 1) -> tuple[Mixture, torch.Tensor]:
    """Forecasts of four planes with stds from .02 to .6, and truths whose errors are wider than they say."""
    g = torch.Generator().manual_seed(seed)
    mean = torch.randn(3, 4, 9, 13, generator=g)
    std = torch.exp(torch.rand(mean.shape, generator=g) * 3.4 - 3.9)
    y = mean + factor * std * torch.randn(mean.shape, generator=g)
    return Mixture(mean.expand(members, *mean.shape), std.expand(members, *mean.shape)), y


@pytest.mark.parametrize(("factor", "members"), [(1.0, 1), (1.4, 1), (0.7, 3), (1.23, 2)])
def test_what_the_errors_were_made_with_is_found(factor, members):
    pairs = (simulated(factor, seed, members) for seed in range(40))
    found = Calibration.fit(sum(coverage_ladder(*pair, torch.ones_like(pair[1]).bool()) for pair in pairs))
    np.testing.assert_allclose(np.array(found.factor)[:, :6], factor, rtol=0.04)  # no std lies in the last class


def test_each_class_of_std_gets_a_factor_of_its_own():
    """Errors 1.5 times as wide as the forecast says where it is surest, and as wide where it is not."""
    total = 0
    for seed in range(60):
        mixture, _ = simulated(1.0, seed)
        std, g = mixture.std[0], torch.Generator().manual_seed(1000 + seed)
        y = mixture.means[0] + torch.where(std < 0.06, 1.5, 1.0) * std * torch.randn(std.shape, generator=g)
        total = total + coverage_ladder(mixture, y, torch.ones_like(y).bool())
    factors = np.array(Calibration.fit(total).factor)
    np.testing.assert_allclose(factors[:, 0], 1.5, rtol=0.08)  # drawn a little towards the plane's
    np.testing.assert_allclose(factors[:, 3:5], 1.0, rtol=0.08)


def test_between_two_classes_the_factor_goes_by_the_log_of_the_std():
    factor = torch.linspace(1.0, 4.0, len(STDS)).tolist()
    std = torch.tensor([0.001, STDS[0], 2**0.5 * STDS[0], STDS[3], STDS[-1], 9.0])
    calibrated = Calibration((tuple(factor),))(Mixture(torch.zeros(2, 1, 1, 1, 6), std.expand(2, 1, 1, 1, 6)))
    expected = [factor[0], factor[0], (factor[0] * factor[1]) ** 0.5, factor[3], factor[-1], factor[-1]]
    assert (calibrated.std[0, 0, 0, 0] / std).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_components_of_a_pixel_share_its_factor():
    std = torch.tensor([0.03, 0.4])[:, None, None, None, None].expand(2, 1, 1, 3, 3)
    factor = tuple(1.0 + 0.1 * i for i in range(len(STDS)))
    ratio = Calibration((factor,))(Mixture(torch.zeros(2, 1, 1, 3, 3), std)).std / std
    torch.testing.assert_close(ratio[0], ratio[1])


def test_the_ladder_counts_what_the_calibrated_mixture_covers():
    g = torch.Generator().manual_seed(0)
    means, std, y = (torch.randn(shape, generator=g) for shape in ((5, 7, 2, 1, 1), (5, 7, 2, 1, 1), (7, 2, 1, 1)))
    mixture = Mixture(means, std.abs() + 0.1)
    wide = Mixture(*(x.expand(5, 7, 2, 8, 8) for x in (mixture.means, mixture.std)))  # pixels of a window are alike
    ladder = coverage_ladder(wide, y.expand(7, 2, 8, 8), torch.ones(7, 2, 8, 8).bool())
    assert ladder.shape == (len(FACTORS) + 1, 2, len(STDS))
    ladder = ladder.sum(-1)
    for f in (0, 9, 19):
        low, high = (Calibration(((FACTORS[f],) * len(STDS),) * 2)(mixture).quantile(p) for p in (0.05, 0.95))
        share = ((y >= low) & (y <= high)).double().mean((0, 2, 3)).numpy()
        np.testing.assert_allclose(ladder[f] / ladder[-1], share, atol=0.02)


def test_unobserved_pixels_leave_the_sums_and_an_unobserved_plane_its_std():
    mixture, y = simulated(1.3, 0)
    mask = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) < 0.7
    mask[:, 2] = False
    ladder = coverage_ladder(mixture, torch.where(mask, y, torch.nan), mask)
    assert np.isfinite(ladder).all()
    assert (ladder[:, 2] == 0).all()
    np.testing.assert_array_equal(ladder, coverage_ladder(mixture, torch.where(mask, y, 1e9), mask))
    found = Calibration.fit(ladder)
    assert found.factor[2] == (1.0,) * len(STDS)


def test_a_shared_noise_per_lead_time_is_calibrated_too():
    mixture = Mixture(torch.zeros(2, 3, 4, 5, 5), torch.full((4, 1, 1), 0.5))
    calibrated = Calibration(tuple((factor,) * len(STDS) for factor in (1.0, 2.0, 1.0, 0.5)))(mixture)
    assert calibrated.std[:, 0, 0].tolist() == pytest.approx([0.5, 1.0, 0.5, 0.25])
    assert calibrated.variance().shape == (3, 4, 5, 5)


@pytest.fixture(scope="module")
def config(tiny_store, tmp_path_factory) -> TrainConfig:
    return TrainConfig(
        episodes=tiny_store,
        run=str(tmp_path_factory.mktemp("calibrated") / "run"),
        network=NetworkConfig(width=4, depth=1),
        likelihood="gaussian_scale",
        score="crps",
        inner=InnerConfig(steps=1, rate=0.1),
        pretrain_steps=2,
        steps=2,
        meta_batch=2,
        validate_every=2,
        validation_episodes=2,
        validation_members=2,
        workers=2,
        threads=1,
        device="cpu",
    )


def test_forecasts_of_a_trained_run_are_calibrated(config, tiny_store):
    train(config)
    model = Model.load(config.run)
    assert set(model.calibrations) == {"adapted", "prior"}
    assert set(Model.load(config.run, "pretrained").calibrations) == {"adapted"}  # a pooled forecast is the only one
    store = EpisodeStore.open(tiny_store)
    batch = Loader(store, split="validation").load(store.ids("validation")[:1])
    support, query = (Examples(part.x[0], part.y[0], part.mask[0]) for part in (batch.support, batch.query))
    for steps, name in ((0, "prior"), (1, "adapted")):
        posterior = model.adapt(support, steps)
        raw = Mixture(*model.learner.predict(posterior, query.x, 3, torch.Generator().manual_seed(0)))
        made = model.predict(posterior, query.x, 3)
        torch.testing.assert_close(made.std, model.calibrations[name](raw).std, rtol=0, atol=0)
        assert torch.equal(made.means, raw.means)
        assert not torch.equal(made.std.expand_as(raw.std), raw.std)


def test_it_can_be_left_off(config):
    plain = config.model_copy(update={"run": f"{config.run}-plain", "calibrate": False, "pretrain_steps": 0})
    train(plain)
    assert Model.load(plain.run).calibrations == {}


def test_one_factor_a_plane_of_an_older_checkpoint_is_that_of_all_classes():
    assert Calibration.from_json({"factor": [1.1, 0.9]}).factor == ((1.1,) * len(STDS), (0.9,) * len(STDS))
    found = Calibration(((1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6),))
    assert Calibration.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_forecast_that_is_not_finite_stays_so_where_it_is_not():
    std = torch.full((1, 1, 1, 3, 3), 0.1)
    std[..., 0, 0] = torch.nan
    calibrated = Calibration(((1.5,) * len(STDS),))(Mixture(torch.zeros_like(std), std))
    assert calibrated.std.isnan().sum() == calibrated.std[..., 0, 0].isnan().sum() == 1
