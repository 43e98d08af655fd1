"""The row that no learner can better, in an evaluation on the linear process, and where it is refused."""

from datetime import timedelta

import numpy as np
import pytest

from core.config import (
    EpisodesConfig,
    EvaluateConfig,
    InnerConfig,
    NetworkConfig,
    SimulatorConfig,
    SplitConfig,
    TimeRange,
    TrainConfig,
)
from core.episodes.builder import build
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.satellite.linear import optimum
from core.satellite.linear_sky import FRAME_MINUTES, KELVIN_PER_STD, LinearSky
from core.training.train import train
from core.verify.evaluate import evaluate
from core.verify.optimum import OPTIMUM, optimal_forecast
from core.verify.scoring import episode_of
from tests.core.conftest import START, write_archive

SIDE, PIXELS, CADENCE, DAYS = 8, 32, 60, 3
SIMULATOR = SimulatorConfig(enabled=True, process="linear", seed=5, pixels=PIXELS, region_pixels=SIDE)


def _day(number: int) -> TimeRange:
    return TimeRange(start=START + timedelta(days=number), end=START + timedelta(days=number + 1))


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> EvaluateConfig:
    """Three days of the process, a day a split, with a run that has hardly learned."""
    root = tmp_path_factory.mktemp("linear")
    sky = LinearSky(SIMULATOR.seed, PIXELS, SIDE)
    midnight = np.datetime64(START.replace(tzinfo=None), "m")
    slots = range(DAYS * 24 * 60 // CADENCE)
    frames = {slot: sky.at(midnight + np.timedelta64(slot * CADENCE, "m"), CADENCE) for slot in slots}
    write_archive(str(root / "archive.zarr"), frames, CADENCE)
    episodes, run = str(root / "episodes.zarr"), str(root / "run")
    build(
        EpisodesConfig(
            archive=str(root / "archive.zarr"), store=episodes, input_frames=1, target_frames=2, tile_pixels=SIDE,
            span="hours", span_hours=24, span_stride_hours=24, support_windows=2, query_windows=8, query_stride=2,
            activity=0, train_episodes=8, validation_episodes=2, test_episodes=5,
            split=SplitConfig(modulus=4, train=[_day(0)], validation=[_day(1)], test=[_day(2)]),
        )
    )  # fmt: skip
    train(
        TrainConfig(
            episodes=episodes, run=run, network=NetworkConfig(width=4, depth=1), inner=InnerConfig(steps=1), steps=2,
            pretrain_steps=2, meta_batch=2, validate_every=2, threads=1,
        )
    )  # fmt: skip
    return EvaluateConfig(
        run=run, episodes=episodes, scorecard=str(root / "scorecard"), members=2, shuffled=False, pretrained=False,
        bootstrap_samples=100, bootstrap_hours=24, simulator=SIMULATOR,
    )  # fmt: skip


def test_the_optimum_is_a_row_that_none_betters_as_good_and_as_sure_as_the_closed_form(config, monkeypatch):
    monkeypatch.setattr("core.verify.evaluate.draw_pictures", lambda *_: {})
    table = evaluate(config).table
    store, sky = EpisodeStore.open(config.episodes), LinearSky(SIMULATOR.seed, PIXELS, SIDE)
    ids, parts = store.ids("test"), []
    for episode, times in zip(ids, store.init_times(ids)[1], strict=True):
        row, column = (store.catalog.loc[episode, name] // SIDE for name in ("y0", "x0"))
        context = sky.context(times[0], row, column).every(CADENCE / FRAME_MINUTES)
        parts.append(optimum(context, (2 * SIDE, 2 * SIDE), SIDE, 1, 2).crps())
    expected = np.mean(parts, axis=0) * KELVIN_PER_STD / store.normalisation.std[0]
    whole = table[(table["learner"] == OPTIMUM) & (table["holdout"] == "all")]
    own = whole.set_index(["metric", "lead_time"])["value"]
    for lead, crps in zip(store.lead_minutes, expected, strict=True):
        assert own["crps", lead] == pytest.approx(crps, rel=0.05)
        assert own["spread_skill", lead] == pytest.approx(1, abs=0.05)
        assert own["coverage_90", lead] == pytest.approx(0.9, abs=0.02)
    ratios = table[table["metric"] == "crps_ratio"]
    assert set(ratios["learner"]) == set(table["learner"]) - {OPTIMUM}
    assert (ratios["value"] > 1).all()
    assert set(table[table["learner"] == OPTIMUM]["kind"]) == {"optimum"}
    crps = table[table["metric"] == "crps"].set_index(["learner", "holdout", "lead_time"])["value"]
    for row in ratios.itertuples():
        learner, best = (crps[name, row.holdout, row.lead_time] for name in (row.learner, OPTIMUM))
        assert row.value == pytest.approx(learner / best)


def test_where_the_closed_form_does_not_hold_it_is_refused_and_not_guessed(config, tmp_path):
    others = SimulatorConfig(enabled=True, process="linear", seed=5, pixels=48, region_pixels=12)
    asked = config.model_copy(update={"simulator": others, "scorecard": str(tmp_path / "other")})
    with pytest.raises(FewcastError, match="one square and one day of the linear process: found 8 pixels from"):
        evaluate(asked)
    assert not list((tmp_path / "other").glob("scorecard.*"))
    store = EpisodeStore.open(config.episodes)
    query = episode_of(Loader(store, split="test").load(store.ids("test")[:1].tolist()).query, 0)
    query.x[0, -1, 3, 3] = 0.0
    with pytest.raises(FewcastError, match="known for whole inputs alone"):
        optimal_forecast(SIMULATOR, store, store.catalog.iloc[store.ids("test")[0]], query)
