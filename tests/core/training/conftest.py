"""A small training, and the run of it that was never stopped."""

from pathlib import Path

import pytest
import torch

from core.config import TrainConfig
from core.training.train import train
from tests.core.training.runs import configured


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def config(tiny_store, tmp_path) -> TrainConfig:
    return configured(tiny_store, tmp_path)


@pytest.fixture(scope="session")
def unbroken(tiny_store, tmp_path_factory) -> Path:
    """The run of `config`, never stopped."""
    torch.set_num_threads(1)
    config = configured(tiny_store, tmp_path_factory.mktemp("unbroken"))
    train(config)
    return Path(config.run)
