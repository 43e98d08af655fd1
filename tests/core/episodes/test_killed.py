"""A build that is killed as a process, anywhere, and run again."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from core.config import EpisodesConfig
from core.episodes import EpisodeStore, validate

# Imports once and forks for every build, so that many kills cost no more than their builds.
CODE = """
import os, sys
from core.config import EpisodesConfig
from core.episodes import build, builder
builder.SHARDS_PER_TASK = 8
for line in sys.stdin:
    child = os.fork()
    if not child:
        build(EpisodesConfig.model_validate_json(line))
        os._exit(0)
    print(child, flush=True)
    _, status, used = os.wait4(child, 0)
    print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
"""
Start = Callable[[EpisodesConfig], tuple[int, Callable[[], list[float]]]]


@contextmanager
def builds() -> Iterator[Start]:
    """Start a build in a process of its own: its id, and a call that waits for its end: exit code, CPU seconds."""
    with subprocess.Popen(
        [sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, heard = process.stdin, process.stdout

        def start(config: EpisodesConfig) -> tuple[int, Callable[[], list[float]]]:
            told.write(config.model_dump_json() + "\n")
            told.flush()
            return int(heard.readline()), lambda: [float(word) for word in heard.readline().split()]

        yield start


def cpu_seconds(process: int) -> float:
    """What a process has used of a CPU, which does not depend on how busy the machine is; infinite once it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shards(store: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(store, "frames").glob("c.*")}


@pytest.mark.parametrize("kills", [1, pytest.param(25, marks=pytest.mark.soak)])
def test_killed_anywhere_and_run_again_it_is_the_same_store(
    configure: Callable[..., EpisodesConfig], kills: int
) -> None:
    whole, config = configure(store=configure().store + "-whole"), configure()
    rng, torn, finished = random.Random(7), 0, 0
    with builds() as start:
        code, seconds = start(whole)[1]()
        assert code == 0
        expected, digest = shards(whole.store), EpisodeStore.open(whole.store).digest
        for attempt in range(kills):
            child, ended = start(config)
            if attempt == 0:
                while len(list(Path(config.store, "frames").glob("c.*"))) < 20:
                    time.sleep(0.002)
            else:
                moment = rng.random() * seconds
                while cpu_seconds(child) < moment:
                    time.sleep(0.002)
            with suppress(ProcessLookupError):  # it was quicker
                os.kill(child, signal.SIGKILL)
            ended()
            if Path(config.store, "zarr.json").exists():
                finished += 1
                assert shards(config.store) == expected
                shutil.rmtree(config.store)
            else:
                torn += 1
        print(f"{torn} builds of {seconds:.2f} CPU seconds killed on the way, {finished} were done by then")
        assert start(config)[1]()[0] == 0
    assert torn > kills // 3
    assert EpisodeStore.open(config.store).digest == digest
    assert shards(config.store) == expected
    assert validate(config.store).valid
    assert not [path for path in Path(config.store, "parts").rglob("*") if path.is_file()]
