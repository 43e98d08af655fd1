"""A model rebuilt from its run: the same forecasts as in training, and refusals that say the mend."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import Examples
from core.model import DataSpec, Model, find
from core.report import Silent
from core.training.train import train
from core.verify.rows import forget_models, open_model


@pytest.fixture(scope="module")
def config(tiny_store, tmp_path_factory) -> TrainConfig:
    torch.set_num_threads(1)
    config = TrainConfig(
        episodes=tiny_store,
        run=str(tmp_path_factory.mktemp("model") / "run"),
        network=NetworkConfig(width=4, depth=1),
        likelihood="gaussian_scale",
        score="crps",
        inner=InnerConfig(steps=2, rate=0.1),
        pretrain_steps=3,
        steps=3,
        meta_batch=2,
        validate_every=3,
        validation_episodes=2,
        validation_members=2,
        averaging=0.5,
        device="cpu",
    )
    train(config)
    return config


@pytest.fixture(scope="module")
def episode(tiny_store):
    store = EpisodeStore.open(tiny_store)
    batch = Loader(store, split="validation").load(store.ids("validation")[:1])
    return tuple(Examples(part.x[0], part.y[0], part.mask[0]) for part in (batch.support, batch.query))


def test_adapt_and_predict_from_disk(config, episode, tiny_store):
    support, query = episode
    model = Model.load(config.run, "last")
    assert (model.step, model.inner_steps, model.config.learner) == (6, 2, "abml")
    assert model.spec == DataSpec.of(EpisodeStore.open(tiny_store))
    assert model.spec.lead_minutes == (30, 60)
    mixture = model.predict(model.adapt(support), query.x, members=5, seed=3)
    assert mixture.means.shape == (5, *query.y.shape)
    assert mixture.std.expand_as(mixture.means).min() > 0
    again = Model.load(Path(config.run), "last")
    same = again.predict(again.adapt(support), query.x, members=5, seed=3)
    assert torch.equal(same.means, mixture.means)
    assert again.version == model.version
    assert not torch.equal(model.predict(model.adapt(support), query.x, 5, seed=4).means, mixture.means)


def test_a_copied_checkpoint_folder_is_enough(config, tmp_path):
    shutil.copytree(find(Path(config.run), 3).path, tmp_path / "elsewhere")
    assert Model.load(tmp_path / "elsewhere").step == 3


def test_no_support_and_no_steps_both_give_the_prior(config, episode):
    support, query = episode
    model = Model.load(config.run)
    nothing = Examples(support.x[:0], support.y[:0], support.mask[:0])
    prior = model.predict(model.adapt(support, steps=0), query.x, 2, seed=0)
    assert torch.equal(model.predict(model.adapt(nothing), query.x, 2, seed=0).means, prior.means)
    assert not torch.equal(model.predict(model.adapt(support), query.x, 2, seed=0).means, prior.means)


def test_the_average_is_what_is_used(config):
    found = checkpoint.load(Path(config.run), 6)
    model = Model.load(config.run, 6)
    name = "mean/head.weight"
    assert torch.equal(model.state.theta[name], found.tensors[f"average/{name}"])
    assert not torch.equal(found.tensors[f"average/{name}"], found.tensors[f"theta/{name}"])


def test_the_pooled_network_of_the_same_run(config, episode):
    support, query = episode
    model = Model.load(config.run, "pretrained")
    assert (model.step, model.config.learner, model.inner_steps) == (3, "pooled", 0)
    pooled = model.predict(model.adapt(support), query.x, 3)
    assert torch.equal(pooled.means[0], pooled.means[2])  # point weights: one component
    tuned = model.predict(model.adapt(support, steps=3), query.x, 3)
    assert not torch.equal(tuned.means, pooled.means)


def test_a_bad_best_falls_back_to_the_newest_good_one(config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(config.run, run)
    last = find(run, "last")
    body = json.loads((last.path / "checkpoint.json").read_text())
    meta = body["meta"] | {"best_step": 3}
    checkpoint.save(run, 6, last.tensors, meta, keep=[3])
    assert Model.load(run).step == 3
    (run / "step_00000003" / "tensors.safetensors").write_bytes(b"")
    said, report = [], Silent()
    report.message = said.append
    assert Model.load(run, report=report).step == 6
    assert ["of step 6, is used for the best" in line for line in said] == [True]
    forget_models()
    assert [open_model(str(run), report=report).step for _ in range(2)] == [6, 6]
    assert len(said) == 2, "an evaluation says so too, once"


def test_no_run_and_a_run_of_another_version_are_named(config, tmp_path):
    with pytest.raises(FewcastError, match="no trained run in"):
        Model.load(tmp_path)
    last = find(Path(config.run), "last")
    checkpoint.save(tmp_path, 6, last.tensors, last.meta | {"config": {"unheard_of": 1}})
    with pytest.raises(FewcastError, match="another version of fewcast"):
        Model.load(tmp_path, "last")
