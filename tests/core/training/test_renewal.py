"""A schedule trains anew as a store grows, and the new run is compared with the old one on the same episodes."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.config import TrainConfig
from core.meta import checkpoint
from core.model import Model
from core.training.renewal import latest, point_to_latest, renewed
from core.training.run import episodes_of
from core.training.train import train
from core.training.validation import crps_beside, scored_on

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


@pytest.fixture
def config(chain, tmp_path) -> TrainConfig:
    """That of the chain's run, which has ended, over copies of its run and its store."""
    shutil.copytree(chain.run, tmp_path / "run")
    shutil.copytree(chain.store, tmp_path / "episodes.zarr")
    own = {"run": str(tmp_path / "run"), "episodes": str(tmp_path / "episodes.zarr")}
    return TrainConfig.model_validate(checkpoint.load_latest(Path(chain.run)).meta["config"] | own)


def grow(store: str) -> None:
    """Add a version of another digest, as a build does that finds new contexts."""
    root = json.loads((Path(store) / "zarr.json").read_text())
    own = root["attributes"]["fewcast_episodes"]
    own["versions"].append(own["versions"][-1] | {"version": 2, "digest": "grown"})
    for table in ("catalog", "contexts"):
        shutil.copy(Path(store) / table / "0001.parquet", Path(store) / table / "0002.parquet")
    (Path(store) / "zarr.json").write_text(json.dumps(root))


def no_champion() -> str:
    raise AssertionError("the registry is not asked")


def test_a_run_goes_on_until_it_has_ended_and_then_waits_for_episodes(config: TrainConfig) -> None:
    assert renewed(config, no_champion, NOW) == config
    more = config.model_copy(update={"steps": 100})
    grow(config.episodes)
    assert renewed(more, no_champion, NOW) == more, "it has not ended"
    fresh = config.model_copy(update={"run": config.run + "-other"})
    assert renewed(fresh, no_champion, NOW) == fresh


def test_once_episodes_have_come_a_new_run_starts_from_the_champion(config: TrainConfig) -> None:
    grow(config.episodes)
    champion = Model.load(config.run)
    due = renewed(config, lambda: str(champion.path), NOW)
    assert due == config.model_copy(update={"run": f"{config.run}.20260301T0300Z", "fork": str(champion.path)})
    Path(due.run).mkdir()
    assert renewed(config, lambda: str(champion.path), NOW.replace(day=8)) == due, "killed before its first checkpoint"
    assert not train(due, segment=2).finished
    assert renewed(config, no_champion, NOW.replace(day=8)) == due, "killed with a checkpoint, which has an origin"
    assert train(due).finished
    [found] = {checkpoint.load_latest(Path(due.run)).meta[name] for name in ("episodes_digest",)}
    assert found == "grown"
    again = renewed(config, no_champion, NOW.replace(day=8))
    assert again == due, "no episode has come since"
    assert train(again).steps_per_second == 0
    point_to_latest(config.run, config.run)
    point_to_latest(config.run, due.run)
    assert Path(latest(config.run)).resolve() == Path(due.run)
    assert Model.load(latest(config.run)).episodes_digest == "grown"


def test_a_run_scored_anew_has_the_score_that_validation_gave_it(chain) -> None:
    model = Model.load(chain.run)
    best = checkpoint.load_latest(Path(chain.run)).meta["progress"]["best"]["crps"]
    assert crps_beside(model, model) == pytest.approx(best, rel=1e-6)
    other = replace(model.spec, mean=(0.0,))
    assert crps_beside(model, replace(model, spec=other)) is None, "in other units"
    assert crps_beside(model, replace(model, episodes_digest="another")) is None, "its store was built anew"


def test_another_choice_of_episodes_members_or_seed_is_another_score(chain) -> None:
    config = Model.load(chain.run).config
    store = episodes_of(config)

    def changed(**values: int) -> str:
        return scored_on(config.model_copy(update=values), store)

    assert changed(steps=9) == changed()
    others = changed(validation_episodes=1), changed(validation_members=9), changed(seed=9)
    assert len({changed(), *others}) == 4
