"""Training runs: the same bits however often they are stopped, and one clear line for what cannot go on."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.config import InnerConfig, NetworkConfig, OuterConfig, TrainConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint, learner
from core.meta.checks import DivergedError
from core.meta.parallel import RankLostError
from core.model import Model
from core.report import Silent
from core.run import episodes_of
from core.train import train
from core.validation import Validation
from tests.core.devices import needs_cuda


class Recorder(Silent):
    def __init__(self):
        self.values, self.messages, self.figures, self.done = {}, [], [], []

    def metrics(self, values, step):
        self.values.setdefault(step, {}).update(values)

    def message(self, text):
        self.messages.append(text)

    def figure(self, name, figure, step):
        self.figures.append((name, step))

    def progress(self, done, total, note=""):
        self.done.append((done, total))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tiny_store, tmp_path) -> TrainConfig:
    return configured(tiny_store, tmp_path)


@pytest.fixture(scope="module")
def unbroken(tiny_store, tmp_path_factory) -> Path:
    """The run of `config`, never stopped."""
    torch.set_num_threads(1)
    config = configured(tiny_store, tmp_path_factory.mktemp("unbroken"))
    train(config)
    return Path(config.run)


def configured(store: str, folder: Path) -> TrainConfig:
    return TrainConfig(
        episodes=store,
        run=str(folder / "run"),
        network=NetworkConfig(width=4, depth=1),
        inner=InnerConfig(steps=2, rate=0.1),
        pretrain_steps=4,
        steps=8,
        meta_batch=2,
        warmup_steps=2,
        validate_every=5,
        validation_episodes=3,
        validation_members=2,
        averaging=0.9,
        device="cpu",
    )


def variant(config: TrainConfig, **changes) -> TrainConfig:
    return TrainConfig.model_validate(config.model_dump() | changes)


def bits(run: str | Path) -> dict[str, bytes]:
    found = checkpoint.load_latest(Path(run))
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()}


def stop_after(calls: int):
    count = iter(range(10_000))
    return lambda: next(count) >= calls


def test_a_run_trains_validates_reports_and_ends(config):
    report = Recorder()
    summary = train(config, report=report)
    assert (summary.step, summary.finished, summary.ended) == (12, True, "its steps")
    assert checkpoint.steps(Path(config.run)) == sorted({4, 10, 12, summary.best_step})
    validated = {step for step, values in report.values.items() if "validation/crps" in values}
    assert validated == {4, 5, 10, 12}
    names = {name for name, _ in report.figures}
    assert len(names) == 2  # the same windows at every validation
    assert report.figures == [(name, step) for step in (4, 5, 10, 12) for name in sorted(names)]
    assert report.values[12]["validation/crps"] >= summary.best["crps"]
    best = {name: summary.best[name] for name in ("crps", "prior_crps")} | {"step": summary.best_step}
    assert {name: report.values[12][f"best/{name}"] for name in best} == best
    assert summary.best["gain"] == pytest.approx(1 - summary.best["crps"] / summary.best["prior_crps"])
    for name in (
        "train/loss",
        "train/data",
        "train/kl",
        "train/support_improvement",
        "train/gradient_norm",
        "train/learning_rate",
        "train/steps_per_second",
        "noise/std_30min",
        "noise/std_60min",
        "prior_log_std/encoder.0",
        "inner/rate",
    ):
        assert name in report.values[12], name
    assert report.done[-1] == (12, 12)


def test_training_lowers_the_validation_crps(config):
    report = Recorder()
    train(variant(config, pretrain_steps=30, steps=1, averaging=0), report=report)
    assert report.values[30]["validation/crps"] < 0.9 * report.values[5]["validation/crps"]


@pytest.mark.parametrize("stops", [[3, 0, 1], [6]])
def test_stopped_and_resumed_gives_the_bits_of_the_unbroken_run(config, unbroken, stops):
    for calls in stops:
        summary = train(config, stop=stop_after(calls))
        assert not summary.finished
        assert summary.ended == "a request to stop"
    summary = train(config)
    assert summary.finished
    assert bits(config.run) == bits(unbroken)
    assert checkpoint.load_latest(unbroken).meta["progress"]["best"] == summary.best
    assert checkpoint.steps(Path(config.run)) == checkpoint.steps(unbroken)


@needs_cuda
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("execution", ["eager", "cuda_graph"])
def test_a_run_on_a_gpu_gives_the_same_bits_when_resumed(config, tmp_path, execution, workers):
    whole = variant(config, run=str(tmp_path / "gpu"), device="cuda", execution=execution, workers=workers)
    summary = train(whole)
    assert (summary.step, summary.finished) == (12, True)
    assert 0 < summary.best["crps"] < 1
    broken = variant(whole, run=str(tmp_path / "broken"))
    for calls in (2, 7):  # in the pooled steps and in the meta-steps
        assert not train(broken, stop=stop_after(calls)).finished
    assert train(broken).finished
    assert bits(broken.run) == bits(whole.run)


def test_segments_give_the_bits_of_the_unbroken_run(config, unbroken):
    seen = []
    while not (summary := train(config, segment=5)).finished:
        seen.append(summary.step)
    assert seen == [5, 10]
    assert bits(config.run) == bits(unbroken)


def test_a_finished_run_is_not_trained_again(config, unbroken):
    before, report = bits(unbroken), Recorder()
    summary = train(variant(config, run=str(unbroken)), report=report)
    assert (summary.step, summary.finished, summary.ended) == (12, True, "its steps")
    assert not report.done
    assert bits(unbroken) == before


def test_the_budget_ends_a_run_with_a_validation_and_counts_across_calls(config):
    now = iter(float(i) for i in range(100_000))  # each look at the clock takes a second
    summary = train(variant(config, budget_minutes=0.5), stop=stop_after(2), clock=lambda: next(now))
    assert not summary.finished
    summary = train(variant(config, budget_minutes=0.5), clock=lambda: next(now))
    assert (summary.finished, summary.ended) == (True, "the budget")
    assert summary.step < 12
    assert summary.best["crps"] > 0


def test_the_exact_mode_is_pinned_before_first_order_steps_are_over(config, monkeypatch):
    """What memory is free later, after a resume say, no longer matters; nor does what other ranks have."""
    monkeypatch.setattr(learner, "fastest_exact", lambda *_: "checkpointed")
    first_order = variant(config, pretrain_steps=0, outer=OuterConfig(first_order_steps=3))
    train(first_order, stop=stop_after(0))
    assert checkpoint.load_latest(Path(config.run)).meta["progress"]["gradient"] == "checkpointed"
    asked = []
    monkeypatch.setattr(learner, "fastest_exact", lambda *_: asked.append("unrolled") or "unrolled")
    assert train(first_order, segment=4).step == 5
    assert not asked


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


def test_early_stopping(config):
    summary = train(variant(config, learning_rate=1e-12, validate_every=1, patience=1, averaging=0.0, steps=50))
    assert (summary.ended, summary.finished) == ("early stopping", True)
    assert summary.step < 54


@pytest.mark.parametrize("learner", ["maml", "pooled"])
def test_the_other_learners_train(config, learner):
    summary = train(variant(config, learner=learner))
    assert summary.finished
    assert ("prior_crps" in summary.best) == (learner == "maml")


def test_fork_starts_from_the_best_of_another_run(config, unbroken):
    report = Recorder()
    fork = variant(config, fork=str(unbroken), steps=1, learning_rate=1e-12)
    inner = fork.inner.model_copy(update={"steps": 3})  # its learned rates have another shape
    summary = train(fork.model_copy(update={"inner": inner}), report=report)
    assert summary.step == 1
    assert str(unbroken) in report.messages[0]
    theirs, ours = Model.load(unbroken).state.theta, Model.load(fork.run).state.theta
    for name, leaf in theirs.items():
        if not name.startswith("log_rate/"):
            torch.testing.assert_close(ours[name], leaf, rtol=0, atol=1e-6)


def test_a_changed_setting_is_said_when_going_on(config):
    train(config, stop=stop_after(5))
    report = Recorder()
    train(variant(config, learning_rate=5e-4), report=report)
    assert report.messages == ["going on from step 6 with learning_rate 0.001 -> 0.0005"]


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


def test_validation_chooses_the_number_of_inner_steps(config):
    report = Recorder()
    train(variant(config, inner=config.inner.model_copy(update={"steps_to_try": [1, 6]})), report=report)
    values = report.values[12]
    tried = {steps: values[f"validation/crps_steps_{steps}"] for steps in (1, 2, 6)}
    assert values["validation/crps"] == min(tried.values())
    assert len(set(tried.values())) == 3
    model = Model.load(config.run, "last")
    assert tried[model.inner_steps] == min(tried.values())
    assert model.learner.inner.steps == 2  # what it was trained with
    assert Model.load(config.run, "pretrained").inner_steps == 0


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


def test_no_pooled_checkpoint_without_pooled_steps(config):
    train(variant(config, pretrain_steps=0, steps=2))
    with pytest.raises(FewcastError, match="no pooled steps"):
        Model.load(config.run, "pretrained")


def test_a_full_disk_ends_the_run_and_loses_nothing(config, unbroken, monkeypatch):
    train(config, stop=stop_after(5))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(FewcastError, match=r"No space left on device; free some space and run the same command"):
            train(config)
    assert checkpoint.load_latest(Path(config.run)).step == 6
    train(config)
    assert bits(config.run) == bits(unbroken)


def test_a_budget_too_small_shortens_both_phases_and_a_resumed_run_keeps_to_it(config):
    now = iter(float(i) for i in range(100_000))  # a look at the clock takes a second, so a trial step does too
    report = Recorder()
    config = variant(config, pretrain_steps=40, steps=20, budget_minutes=0.5, fit_budget=True)
    train(config, report=report, stop=stop_after(1), clock=lambda: next(now))
    assert "have room for 40% of the configured steps: 16 pooled steps and 8 meta-steps" in report.messages[0]
    summary = train(variant(config, budget_minutes=10))
    assert (summary.step, summary.ended) == (24, "its steps")
    assert Model.load(config.run, "pretrained").step == 16
