"""Training that meets trouble: one clear line for what cannot go on, and nothing lost."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from core.config import NetworkConfig, OuterConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import DivergedError
from core.meta.parallel import RankLostError
from core.model import Model
from core.training.run import episodes_of
from core.training.train import train
from core.training.validation import Validation
from tests.core.training.runs import Recorder, bits, stop_after, variant


@pytest.mark.parametrize("step", [4, 5, 12])
def test_a_rank_lost_in_a_validation_costs_nothing(config, unbroken, monkeypatch, step):
    """At the end of the pooled steps, in between and at the last step: the resumed run makes up for the validation."""
    run = Validation.run

    def lose(self, workers, state):
        if state.step == (step if step <= 4 else step - 4):
            raise RankLostError("rank 0 of 2 lost the others", found="none", mend="start again")
        return run(self, workers, state)

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "run", lose)
        with pytest.raises(RankLostError):
            train(config)
    assert checkpoint.load_latest(Path(config.run)).step == step
    best = train(config).best
    assert bits(config.run) == bits(unbroken)
    ours, theirs = (checkpoint.load_latest(Path(run)).meta["progress"] for run in (config.run, unbroken))
    assert {**ours, "seconds": {}} == {**theirs, "seconds": {}}
    assert best == theirs["best"]
    assert checkpoint.steps(Path(config.run)) == checkpoint.steps(unbroken)


def test_another_architecture_is_refused_and_nothing_lost(config):
    train(config, stop=stop_after(5))
    before = bits(config.run)
    with pytest.raises(FewcastError, match="another architecture"):
        train(variant(config, network=NetworkConfig(width=8, depth=1)))
    assert bits(config.run) == before


def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(config, unbroken):
    train(config, stop=stop_after(10))
    newest = Path(config.run) / f"step_{checkpoint.steps(Path(config.run))[-1]:08d}" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    report = Recorder()
    train(config, report=report)
    assert "passed over" in report.messages[0]
    assert bits(config.run) == bits(unbroken)


def test_a_changed_episode_store_is_refused(config, tiny_store, tmp_path):
    copy = tmp_path / "episodes.zarr"
    shutil.copytree(tiny_store, copy)
    config = variant(config, episodes=str(copy))
    train(config, stop=stop_after(5))
    root = copy / "zarr.json"
    text = root.read_text()
    digest = EpisodeStore.open(str(copy)).digest
    root.write_text(text.replace(digest, "0" * len(digest)))
    with pytest.raises(FewcastError, match="is not the one that this run was trained on"):
        train(config)


def test_a_store_that_grows_changes_nothing_for_a_run(config, tiny_store, tmp_path):
    store = tmp_path / "episodes.zarr"
    shutil.copytree(tiny_store, store)
    config = variant(config, episodes=str(store))
    train(config, stop=stop_after(1))
    pinned = EpisodeStore.open(config.episodes)
    for table in ("catalog", "contexts"):
        shutil.copy(store / table / "0001.parquet", store / table / "0002.parquet")
    root = json.loads((store / "zarr.json").read_text())
    versions = root["attributes"]["fewcast_episodes"]["versions"]
    versions.append(versions[0] | {"version": 2, "digest": 32 * "f"})
    (store / "zarr.json").write_text(json.dumps(root))
    assert (episodes_of(config).version, episodes_of(config).digest) == (1, pinned.digest)
    assert episodes_of(variant(config, run=str(tmp_path / "another"))).version == 2


def test_a_diverging_run_says_the_mend_and_keeps_its_checkpoint(config):
    train(config, stop=stop_after(6))
    wild = variant(config, learning_rate=1.0, decay="none", steps=200, outer=OuterConfig(scalar_rate=1e4))
    with pytest.raises(FewcastError, match="lower train"):
        train(wild)
    assert checkpoint.load_latest(Path(config.run)).step >= 7


def test_a_number_of_inner_steps_that_diverges_is_no_choice(config):
    report = Recorder()
    wild = config.inner.model_copy(update={"steps_to_try": [100], "rate": 1.0, "learn_rates": "no"})
    train(variant(config, inner=wild, learning_rate=1e-6), report=report)
    assert "validation/crps_steps_100" not in report.values[12]
    assert Model.load(config.run, "last").inner_steps == 2


@pytest.mark.parametrize("broken", [6, 2])
def test_a_forecast_that_is_not_finite_has_diverged(config, monkeypatch, broken):
    """After a number of steps that is only tried it is no choice; after those trained with it is the end, in a line."""
    forecast = Validation.forecast

    def spoilt(self, learner, state, support, query, steps):
        found = forecast(self, learner, state, support, query, steps)
        return replace(found, means=found.means * float("inf")) if steps == broken else found

    monkeypatch.setattr(Validation, "forecast", spoilt)
    trying = variant(config, pretrain_steps=0, steps=1, inner=config.inner.model_copy(update={"steps_to_try": [6]}))
    if broken == 2:
        with pytest.raises(DivergedError, match=r"after 2 inner steps is not finite.*; lower train\.inner\.rate"):
            train(trying)
        return
    train(trying)
    assert Model.load(config.run, "last").inner_steps == 2


def test_a_full_disk_ends_the_run_and_loses_nothing(config, unbroken, monkeypatch):
    train(config, stop=stop_after(5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(FewcastError, match=r"No space left on device; free some space and run the same command"):
            train(config)
    assert checkpoint.load_latest(Path(config.run)).step == 6
    train(config)
    assert bits(config.run) == bits(unbroken)
