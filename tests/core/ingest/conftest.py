import shutil

import pytest

from core.satellite import simulator
from tests.core.ingest.world import config


@pytest.fixture(scope="module")
def granules(tmp_path_factory):
    root = tmp_path_factory.mktemp("granules")
    simulator.simulate(config(root))
    return root / "granules"


@pytest.fixture
def root(granules, tmp_path):
    shutil.copytree(granules, tmp_path / "granules")
    return tmp_path
