"""Gloo ranks against one process, and a sum that never comes."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from core.errors import FewcastError
from core.meta import checkpoint, parallel
from core.meta.parallel import RankLostError, Ranks, share
from core.report import Silent
from core.training.run import Run
from core.training.train import train
from tests.core.ranks import run_ranks, small


@pytest.fixture
def config(tiny_store, tmp_path):
    return small(tiny_store, tmp_path)


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.soak)])
def test_ranks_train_as_one_up_to_the_order_of_sums(config, tmp_path, size):
    config = config.model_copy(update={"meta_batch": 2 * size, "pretrain_batch": size})
    one = config.model_copy(update={"run": str(tmp_path / "one")})
    train(one)
    results = run_ranks(config, tmp_path, size)
    assert [rank.said.strip() for rank in results] == size * ["6"], results
    ours, theirs = checkpoint.load_latest(Path(config.run)), checkpoint.load_latest(Path(one.run))
    assert ours.meta["best_step"] == theirs.meta["best_step"]
    assert ours.meta["progress"]["best"] == pytest.approx(theirs.meta["progress"]["best"], rel=1e-4)
    for name, tensor in theirs.tensors.items():
        if name.startswith("theta/"):
            torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_workers_give_the_bits_of_one(config, tmp_path):
    one = config.model_copy(update={"run": str(tmp_path / "one"), "pretrain_steps": 0})
    train(one)
    train(config.model_copy(update={"workers": 3, "pretrain_steps": 0}))
    ours, theirs = checkpoint.load_latest(Path(config.run)), checkpoint.load_latest(Path(one.run))
    assert all(torch.equal(ours.tensors[name], tensor) for name, tensor in theirs.tensors.items())


def test_a_meta_batch_that_does_not_divide_is_named():
    assert share(6, Ranks(1, 3)) == range(2, 4)
    with pytest.raises(FewcastError, match="meta-batch of 6 episodes does not divide over 4 ranks"):
        share(6, Ranks(0, 4))


def test_ranks_that_start_apart_are_told(config, monkeypatch):
    """As where one of them does not see the run's directory and would begin afresh."""
    train(config.model_copy(update={"steps": 1}))
    places = (config.run, f"{config.run}-unseen")
    resumed, afresh = (Run(config.model_copy(update={"run": run}), Silent(), torch.device("cpu")) for run in places)
    other = int(afresh.fingerprint()[:8], 16)
    monkeypatch.setattr(Ranks, "sum", lambda self, own: {"digest": own["digest"] + other})
    Ranks(1, 2).require_same_start(afresh.fingerprint())
    with pytest.raises(FewcastError, match=r"do not start from the same state: found digest \w+ in rank 0 of 2"):
        Ranks(0, 2).require_same_start(resumed.fingerprint())


def test_ranks_that_do_not_divide_the_meta_batch_are_refused_before_the_pooled_steps(config, monkeypatch):
    monkeypatch.setattr("core.training.train.joined", lambda device: nullcontext(Ranks(0, 2)))
    with pytest.raises(FewcastError, match="meta-batch of 3 episodes does not divide over 2 ranks"):
        train(config.model_copy(update={"meta_batch": 3}))
    assert checkpoint.steps(Path(config.run)) == []


def test_alone_nothing_is_communicated():
    tensors = {"a": torch.ones(2, 3), "b": torch.ones((), dtype=torch.float64)}
    assert Ranks().sum(tensors) == Ranks().sum_gradient(tensors) == tensors


def test_a_sum_that_does_not_come_though_all_live_ends_in_a_clear_error(monkeypatch):
    """As where a fabric between GPUs fails: each look says that all are there, and still waiting."""

    class Never(dist.Work):
        def is_completed(self):
            return False

    looks = []
    monkeypatch.setattr(Ranks, "sum", lambda self, tensors: looks.append(tensors) or tensors)
    monkeypatch.setattr(parallel, "GRADIENT_TIMEOUT", timedelta(seconds=0.05))
    monkeypatch.setattr(parallel, "_LOOK_SECONDS", 0.02)
    with pytest.raises(RankLostError, match="rank 1 of 2 lost the others: found no sum of the gradients after"):
        Ranks(1, 2)._wait_together(Never())
    assert len(looks) >= 2
