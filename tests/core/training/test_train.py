"""Training runs: the same bits however often they are stopped, in segments, over budgets, from forks."""

from pathlib import Path

import pytest
import torch

from core.config import OuterConfig
from core.errors import FewcastError
from core.meta import checkpoint, learner
from core.model import Model
from core.training.train import train
from tests.core.devices import needs_cuda
from tests.core.training.runs import Recorder, bits, stop_after, variant


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


@pytest.mark.parametrize(("learner", "said"), [("abml", 1), ("pooled", 0)])
def test_a_budget_that_ends_in_the_pooled_steps_is_said_to_leave_no_other_learner(config, learner, said):
    now, recorder = iter(range(10_000)), Recorder()
    summary = train(variant(config, learner=learner, budget_minutes=0.01), report=recorder, clock=lambda: next(now))
    assert (summary.finished, summary.ended) == (True, "the budget")
    assert summary.step < config.pretrain_steps
    messages = [text for text in recorder.messages if "before its first meta-step: its model is pooled" in text]
    assert len(messages) == said
    assert Model.load(config.run).config.learner == "pooled"


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


def test_no_pooled_checkpoint_without_pooled_steps(config):
    train(variant(config, pretrain_steps=0, steps=2))
    with pytest.raises(FewcastError, match="no pooled steps"):
        Model.load(config.run, "pretrained")


def test_a_budget_too_small_shortens_both_phases_and_a_resumed_run_keeps_to_it(config):
    now = iter(float(i) for i in range(100_000))  # a look at the clock takes a second, so a trial step does too
    report = Recorder()
    config = variant(config, pretrain_steps=40, steps=20, budget_minutes=0.5, fit_budget=True)
    train(config, report=report, stop=stop_after(1), clock=lambda: next(now))
    assert "have room for 40% of the configured steps: 16 pooled steps and 8 meta-steps" in report.messages[0]
    summary = train(variant(config, budget_minutes=10))
    assert (summary.step, summary.ended) == (24, "its steps")
    assert Model.load(config.run, "pretrained").step == 16
