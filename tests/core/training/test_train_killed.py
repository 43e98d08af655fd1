"""kill -9 at random moments: every resumed run ends with the bits of the unbroken one."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.config import TrainConfig
from tests.core.training.runs import bits, configured, variant

_TRAIN = """
import sys
from pathlib import Path
from core.config import TrainConfig
from core.training.train import train

train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
"""


def start(config: TrainConfig) -> subprocess.Popen[bytes]:
    path = Path(f"{config.run}.json")
    path.write_text(config.model_dump_json())
    return subprocess.Popen([sys.executable, "-c", _TRAIN, path])


def finish(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process has ended well within so many seconds; it is killed where it has not."""
    try:
        ended = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        ended = process.wait()
    assert ended in (0, -signal.SIGKILL)
    return ended == 0


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_killed_at_random_moments_and_resumed(tiny_store, tmp_path, kills):
    """Kills fall anywhere in the life of an unfinished run's process: imports, steps, validations, checkpoints.

    What is drawn is a moment within the time that the unbroken run takes, its start included; a run that has finished
    by then was not killed, and the next one begins afresh.
    """
    config = variant(
        configured(tiny_store, tmp_path),
        run=str(tmp_path / "unbroken"),
        steps=14,
        warmup_steps=50,
        validate_every=2,
        validation_episodes=1,
        workers=2,
        threads=1,
    )
    begun = time.monotonic()
    assert finish(start(config), 250)
    unbroken_seconds = time.monotonic() - begun
    expected = bits(config.run)
    rng = np.random.default_rng(5)
    killed, runs = 0, 0
    while killed < kills:
        broken = config.model_copy(update={"run": str(tmp_path / f"run{runs}")})
        runs += 1
        while not finish(start(broken), rng.uniform(0, unbroken_seconds) if killed < kills else 250):
            killed += 1
        assert bits(broken.run) == expected
