"""A build on a Dask cluster of other processes, found by its address; and one that loses a worker on the way."""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from core import fanout
from core.config import EpisodesConfig
from core.episodes import build, builder, validate
from tasks.policies import dask_client

Configure = Callable[..., EpisodesConfig]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


@pytest.fixture
def client(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The client as the flows make it: the address alone is configured."""
    import dask

    with dask.config.set({"scheduler-address": address}), dask_client() as found:
        assert found is not None
        yield found


def shards(store: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(store, "frames").glob("c.*")}


def test_a_cluster_writes_the_same_bytes_and_no_two_tasks_share_a_shard(
    configure: Configure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, local = configure(train_episodes=150), configure(train_episodes=150, store=configure().store + "-here")
    asked: list[list[Any]] = []

    def noted(call: Any, items: Any, **more: Any) -> Any:
        asked.append(list(items))
        return fanout.fan_out(call, items, **more)

    monkeypatch.setattr(builder, "fan_out", noted)
    done = build(config, client=client)
    written = [[number for number, _ in task] for task in asked[0]]
    numbers = [number for task in written for number in task]
    assert len(written) > 2
    assert max(map(len, written)) == 64
    assert sorted(numbers) == list(range(done.built))
    assert os.getpid() not in client.run(os.getpid).values(), "the workers are other processes"
    assert build(local).digest == done.digest
    assert shards(local.store) == shards(config.store)
    assert validate(config.store, client=client).valid


@pytest.mark.soak
def test_a_worker_that_is_killed_loses_nothing(
    configure: Configure, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "SHARDS_PER_TASK", 16)
    config, local = configure(train_episodes=600), configure(train_episodes=600, store=configure().store + "-here")
    digest = build(local).digest
    victims = list(client.run(os.getpid).values())
    killed: list[int] = []

    def kill() -> None:
        for victim, enough in zip(victims, (40, 300), strict=True):
            while len(shards_there(config.store)) < enough:
                time.sleep(0.002)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    assert build(config, client=client).digest == digest
    thread.join()
    assert killed == victims
    assert shards(local.store) == shards(config.store)


def shards_there(store: str) -> list[Path]:
    return list(Path(store, "frames").glob("c.*"))
