"""Two gloo ranks against one process, and a rank that dies."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.parallel import Ranks, share
from core.training.train import train

_RANK = """
import os, signal, sys, torch
from pathlib import Path
from core.config import TrainConfig
from core.errors import FewcastError
from core.training.train import train

config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
dies_at = int(sys.argv[2])
rank = int(os.environ["RANK"])
calls = iter(range(1000))

def stop():
    if rank == dies_at >> 8 and next(calls) == dies_at & 255:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

try:
    summary = train(config, stop=stop)
except FewcastError as error:
    print(error)
    sys.exit(1)
print(summary.step)
"""


def run_ranks(config: TrainConfig, folder: Path, size: int = 2, dies: tuple[int, int] | None = None):
    """Start `size` ranks as torchrun does; rank dies[0] kills itself at its step dies[1]."""
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mark = str((dies[0] << 8) + dies[1]) if dies else str(255 << 8)
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, path, mark],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        return [(process, *process.communicate(timeout=120)) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def config(tiny_store, tmp_path) -> TrainConfig:
    return TrainConfig(
        episodes=tiny_store,
        run=str(tmp_path / "run"),
        network=NetworkConfig(width=4, depth=1),
        inner=InnerConfig(steps=1, rate=0.1),
        pretrain_steps=2,
        pretrain_batch=2,
        steps=4,
        meta_batch=4,
        validate_every=3,
        validation_episodes=3,
        validation_members=2,
        threads=1,
        device="cpu",
    )


def test_two_ranks_train_as_one_up_to_the_order_of_sums(config, tmp_path):
    one = config.model_copy(update={"run": str(tmp_path / "one")})
    train(one)
    results = run_ranks(config, tmp_path)
    assert [out.strip() for _, out, _ in results] == ["6", "6"], results
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


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_a_dead_rank_ends_the_run_with_a_checkpoint_and_a_clear_error(config, tmp_path, victim):
    """Whoever is left writes the state before the step in which the other died."""
    results = run_ranks(config, tmp_path, dies=(victim, 4))
    dead, survivor = results[victim], results[1 - victim]
    assert dead[0].returncode == -signal.SIGKILL
    assert survivor[0].returncode == 1
    assert "lost the others" in survivor[1], survivor
    assert checkpoint.steps(Path(config.run))[-1] == 4
    assert train(config).finished


def test_a_meta_batch_that_does_not_divide_is_named():
    assert share(6, Ranks(1, 3)) == range(2, 4)
    with pytest.raises(FewcastError, match="meta-batch of 6 episodes does not divide over 4 ranks"):
        share(6, Ranks(0, 4))


def test_ranks_that_do_not_divide_the_meta_batch_are_refused_before_the_pooled_steps(config, monkeypatch):
    monkeypatch.setattr("core.training.train.join", lambda device: Ranks(0, 2))
    with pytest.raises(FewcastError, match="meta-batch of 3 episodes does not divide over 2 ranks"):
        train(config.model_copy(update={"meta_batch": 3}))
    assert checkpoint.steps(Path(config.run)) == []


def test_alone_nothing_is_communicated():
    tensors = {"a": torch.ones(2, 3), "b": torch.ones((), dtype=torch.float64)}
    assert Ranks().sum(tensors) == tensors
