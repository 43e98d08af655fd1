"""A run that sees the time, the sun and the place: trained, validated, scored and forecast with the same planes."""

import numpy as np
import pytest
import xarray as xr

from core.config import ForecastConfig, InnerConfig, NetworkConfig, TrainConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.forecast.forecast import forecast
from core.forecast.newest import Newest
from core.model import Model
from core.training.train import train
from core.verify.rows import LearnedRow, Plan
from core.verify.scoring import adapted_forecast, score_episodes
from tasks.tracking.model import signature

EXTRA = ["location", "sun", "time"]


@pytest.fixture(scope="module")
def run(chain, tmp_path_factory) -> str:
    """Like the run of the chain, with every extra input."""
    url = str(tmp_path_factory.mktemp("extra") / "run")
    network = NetworkConfig(width=8, depth=1, extra_inputs=EXTRA)
    train(_training(chain, url, network))
    return url


def _training(chain, url: str, network: NetworkConfig) -> TrainConfig:
    return TrainConfig(
        episodes=chain.store, run=url, network=network, inner=InnerConfig(steps=1), steps=2, pretrain_steps=2,
        meta_batch=2, validate_every=2, threads=1,
    )  # fmt: skip


def test_a_checkpoint_knows_what_it_needs(run, chain):
    model, plain = Model.load(run), Model.load(chain.run)
    assert model.input_planes[:2] == ("ir, 30 minutes before", "ir")
    assert model.input_planes[: len(plain.input_planes)] == plain.input_planes
    assert len(model.input_planes) == model.learner.network.input_planes == 3 + 8
    assert signature(model).inputs.input_dict()["x"].shape == (-1, 11, -1, -1)
    with pytest.raises(FewcastError):
        train(_training(chain, run, NetworkConfig(width=8, depth=1, extra_inputs=["sun"])))


def test_a_forecast_sees_what_training_saw(run, chain, tmp_path):
    model, store = Model.load(run), EpisodeStore.open(chain.store)
    view = Newest.open(ForecastConfig(archive=chain.archive, run=run, output=str(tmp_path), y0=1, x0=2), model)
    loader = Loader(store, split="test", extra=model.extra_inputs)
    for episode in loader.episodes[:3]:
        entry, query = store.catalog.iloc[episode], loader.load([episode]).query
        slot = view.frames.archive.slot(query.init_time[0, 0])
        found = view.cut(view.inputs(slot), slot, entry["y0"] - 1, entry["x0"] - 2)
        assert found.shape == (11, 16, 16)
        np.testing.assert_allclose(found, query.x[0, 0], atol=1e-5)
    made = forecast(view.config.model_copy(update={"members": 2, "support_windows": 1, "support_tiles": 2}))
    with xr.open_zarr(made.url, consolidated=False) as zarr:
        assert (np.isfinite(zarr["mean"]) == view.seen(view.inputs(view.init_slot()))).all()


def test_runs_with_and_without_are_scored_side_by_side(run, chain):
    """Each row sees its own planes: the scores of a run do not depend on what stands beside it."""
    ids = EpisodeStore.open(chain.store).ids("test")[:2].tolist()
    with_extra, without = (LearnedRow(name, (url,), steps=1) for name, url in (("a", run), ("b", chain.run)))
    together = LearnedRow("both", (run, chain.run), "shuffled")

    def scores(*rows: LearnedRow) -> dict[str, np.ndarray]:
        table, failed = score_episodes(chain.store, Plan(rows, np.zeros((3, 2)), True, 2, 0), ids)
        assert not failed
        numbers = table.select_dtypes("number").columns
        return {name: part[numbers].to_numpy() for name, part in table.groupby("learner")}

    found = scores(with_extra, without, together)
    assert len(found) == 6
    for row in (with_extra, without):
        for name, values in scores(row).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-5)
    plan = Plan((with_extra, without), np.zeros((3, 2)), True, 2, 0)
    query, name, _ = adapted_forecast(chain.store, plan, ids[0])
    assert query.x.shape[1] == 3, "pictures see the frames alone"
    assert name == with_extra.name
