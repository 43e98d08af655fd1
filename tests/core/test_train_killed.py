"""kill -9 at random moments: every resumed run ends with the bits of the unbroken one."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.meta import checkpoint
from core.train import train

_TRAIN = """
import sys
from pathlib import Path
from core.config import TrainConfig
from core.report import Silent
from core.train import train

class Told(Silent):
    def progress(self, done, total, note=""):
        print(done, flush=True)

summary = train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()), report=Told())
print("finished" if summary.finished else "stopped", flush=True)
"""


def started(config: TrainConfig, path: Path) -> subprocess.Popen[str]:
    path.write_text(config.model_dump_json())
    return subprocess.Popen([sys.executable, "-c", _TRAIN, path], stdout=subprocess.PIPE, text=True)


def bits(run: str) -> dict[str, bytes]:
    found = checkpoint.load_latest(Path(run))
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()}


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_killed_at_random_moments_and_resumed(tiny_store, tmp_path, kills):
    """Kills fall anywhere in the life of the process: imports, steps, validations, checkpoints."""
    config = TrainConfig(
        episodes=tiny_store,
        run=str(tmp_path / "unbroken"),
        network=NetworkConfig(width=4, depth=1),
        inner=InnerConfig(steps=2, rate=0.1),
        pretrain_steps=4,
        steps=14,
        meta_batch=2,
        validate_every=2,
        validation_episodes=1,
        validation_members=2,
        averaging=0.9,
        workers=2,
        threads=1,
        device="cpu",
    )
    train(config)
    expected = bits(config.run)
    rng = np.random.default_rng(5)
    killed, attempt = 0, 0
    while killed < kills:
        attempt += 1
        broken = config.model_copy(update={"run": str(tmp_path / f"run{attempt}")})
        while True:
            process = started(broken, tmp_path / "config.json")
            assert process.stdout is not None
            if killed < kills and (attempt > 1 or rng.uniform() < 0.9):
                first = process.stdout.readline()  # it has trained: kill it within what is left
                time.sleep(rng.exponential(0.5) if first.strip().isdigit() else 0.0)
                if process.poll() is None:
                    process.kill()
                    killed += 1
            rest = process.communicate(timeout=280)[0]
            if process.returncode == 0:
                assert rest.splitlines()[-1:] in (["finished"], [])
                break
            assert process.returncode == -9
        assert bits(broken.run) == expected
