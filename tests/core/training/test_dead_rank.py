"""A rank that dies, at any moment of a step: the others end soon, with a checkpoint and a clear error."""

import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from core.config import TrainConfig
from core.meta import checkpoint
from core.training.train import train
from tests.core.ranks import Death, run_ranks, small

SECONDS = 30.0
"""For survivors to notice, save and end on a busy machine; torch's own end is most of it."""


def divisible(store: str, folder: Path) -> TrainConfig:
    """By two ranks and by three."""
    return small(store, folder).model_copy(update={"meta_batch": 6, "pretrain_batch": 6})


@pytest.fixture(scope="module")
def unbroken(tiny_store, tmp_path_factory) -> Callable[[int], Path]:
    """The run of so many ranks that nobody disturbs, with a checkpoint of every step."""

    @cache
    def run(size: int) -> Path:
        folder = tmp_path_factory.mktemp("unbroken")
        config = divisible(tiny_store, folder).model_copy(update={"validate_every": 1, "keep": 9})
        assert [rank.said.strip() for rank in run_ranks(config, folder, size)] == size * ["6"]
        return Path(config.run)

    return run


def case(size: int, death: Death, stands: tuple[int, ...], *, soak: bool = True):
    marks = [pytest.mark.soak] if soak else []
    forever = ", its sum never ends" if death.waits_forever else ""
    name = f"rank {death.rank} of {size} as it {death.moment}{forever}"
    return pytest.param(size, death, stands, id=name, marks=marks)


@pytest.mark.parametrize(
    ("size", "death", "stands"),
    [
        case(2, Death(0, "differentiates", 4), (4,), soak=False),
        case(2, Death(1, "begun", 4, waits_forever=True), (4,), soak=False),
        case(2, Death(1, "differentiates", 4), (4,)),
        case(2, Death(1, "agreed", 4), (4,)),
        case(2, Death(0, "begun", 4), (4,)),
        case(2, Death(0, "summed", 4), (4, 5)),  # the other may have been told that both have it, or not
        case(2, Death(1, "validates", 1), (3,)),
        case(3, Death(0, "agreed", 4), (4,)),
        case(3, Death(1, "begun", 4, waits_forever=True), (4,)),
        case(3, Death(2, "summed", 4), (4, 5)),
        case(3, Death(0, "validates", 1), (3,)),
    ],
)
def test_the_others_end_soon_with_a_checkpoint_and_a_clear_error(tiny_store, tmp_path, unbroken, size, death, stands):
    config = divisible(tiny_store, tmp_path)
    ended = run_ranks(config, tmp_path, size, death)
    assert ended[death.rank].code == -signal.SIGKILL
    for rank, survivor in enumerate(ended):
        if rank != death.rank:
            assert survivor.code == 1, survivor
            assert f"rank {rank} of {size} lost the others" in survivor.said
            assert survivor.at - ended[death.rank].at < SECONDS
    saved = checkpoint.load_latest(Path(config.run))
    assert saved.step in stands
    for name, tensor in checkpoint.load(unbroken(size), saved.step).tensors.items():
        assert torch.equal(saved.tensors[name], tensor), name
    assert train(config).finished
