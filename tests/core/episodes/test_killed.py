"""A build that is killed as a process, anywhere, and run again."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build, validate

CODE = """
import sys
from core.config import EpisodesConfig
from core.episodes import build, builder
builder.SHARDS_PER_TASK = 8
print("ready", flush=True)
build(EpisodesConfig.model_validate_json(sys.argv[1]))
"""


def shards(store: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(store, "frames").glob("c.*")}


@pytest.mark.parametrize("kills", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_anywhere_and_run_again_it_is_the_same_store(
    configure: Callable[..., EpisodesConfig], kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.episodes.builder.SHARDS_PER_TASK", 8)
    whole = configure(store=configure().store + "-whole")
    digest = build(whole).digest
    rng = random.Random(7)
    config = configure()
    for attempt in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", CODE, config.model_dump_json()], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            enough = rng.randrange(len(EpisodeStore.open(whole.store).catalog)) if attempt % 2 else 20
            while process.poll() is None and len(shards_there(config.store)) < enough:
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
    assert build(config).digest == digest
    assert shards(config.store) == shards(whole.store)
    assert validate(config.store).valid
    assert not [path for path in Path(config.store, "parts").rglob("*") if path.is_file()]


def shards_there(store: str) -> list[Path]:
    return list(Path(store, "frames").glob("c.*"))
