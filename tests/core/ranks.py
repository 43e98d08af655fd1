"""Ranks as torchrun starts them, one of which may end itself at a chosen moment of a step."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from core.config import InnerConfig, NetworkConfig, TrainConfig

_RANK = """
import json, os, signal, sys
from pathlib import Path
import torch.distributed as dist
from core.config import TrainConfig
from core.errors import FewcastError
from core.meta.learner import Learner
from core.meta.parallel import Ranks
from core.training.train import train
from core.training.validation import Validation

config = TrainConfig.model_validate_json(Path(sys.argv[1]).read_text())
death = json.loads(sys.argv[2])
dies = int(os.environ["RANK"]) == death["rank"]
MOMENTS = {
    "differentiates": (Learner, "gradient"),
    "agreed": (Ranks, "sum_gradient"),
    "begun": (Ranks, "_wait_together"),
    "summed": (Learner, "apply"),
    "validates": (Validation, "_over_ranks"),
}

if dies:
    owner, name = MOMENTS[death["moment"]]
    call, calls = getattr(owner, name), iter(range(1000))

    def die(*arguments, **more):
        if next(calls) == death["call"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **more)

    setattr(owner, name, die)
elif death["waits_forever"]:
    reduce, sums = dist.all_reduce, iter(range(1000))

    class Never:
        def is_completed(self):
            return False

    def wait_forever(tensor, group=None, async_op=False):
        if group is not None and next(sums) == death["call"]:
            return Never()  # as NCCL's kernel does where a peer is gone
        return reduce(tensor, group=group, async_op=async_op)

    dist.all_reduce = wait_forever

try:
    summary = train(config)
except FewcastError as error:
    print(error)
    sys.exit(1)
print(summary.step)
"""


@dataclass(frozen=True)
class Death:
    """Rank `rank` kills itself as it comes for the `call`-th time, from 0, to a moment of a step.

    The moment is where it `differentiates`; where all have `agreed` to sum gradients; where the sum has `begun`; where
    it has the gradients `summed`; or where it `validates`. With `waits_forever` that sum never ends for the others.
    """

    rank: int = -1
    moment: str = "differentiates"
    call: int = 0
    waits_forever: bool = False


@dataclass(frozen=True)
class Ended:
    """How a rank ended, and when (`time.monotonic`)."""

    code: int
    said: str
    errors: str
    at: float


def small(store: str, folder: Path) -> TrainConfig:
    """A training of two pooled steps and four meta-steps, validated at 2, 3 and 6."""
    return TrainConfig(
        episodes=store,
        run=str(folder / "run"),
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


def run_ranks(config: TrainConfig, folder: Path, size: int = 2, death: Death | None = None) -> list[Ended]:
    """Train in so many ranks, and say how each ended."""
    path = folder / "config.json"
    path.write_text(config.model_dump_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, path, json.dumps(asdict(death or Death()))],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended: dict[int, float] = {}
    deadline = time.monotonic() + 120
    try:
        while len(ended) < size and time.monotonic() < deadline:
            for rank, process in enumerate(processes):
                if process.poll() is not None:
                    ended.setdefault(rank, time.monotonic())
            time.sleep(0.02)
    finally:
        for process in processes:
            process.kill()
    said = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    return [Ended(codes[rank], *said[rank], ended.get(rank, float("inf"))) for rank in range(size)]
