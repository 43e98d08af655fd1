"""Days in parallel: on threads, on a cluster by its address, on workers that die."""

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import pytest
from distributed import Client, LocalCluster

from core.archive import Archive, Status
from core.errors import AwayError
from core.ingest import run as run_module
from core.ingest.ahead import ahead
from core.pool import connect_to
from core.room import Room
from tests.core.ingest.world import SLOTS, config, contents, run


def test_work_ahead_keeps_the_order_and_raises_in_turn():
    started = []

    def work(item):
        started.append(item)
        if item == 4:
            raise OSError("four")
        return item * item

    seen = ahead(range(10), work, 3)
    assert next(seen) == (0, 0)
    assert max(started) < 3
    assert [next(seen) for _ in range(3)] == [(1, 1), (2, 4), (3, 9)]
    with pytest.raises(OSError, match="four"):
        next(seen)
    assert list(ahead([], work, 3)) == []


def test_no_more_work_than_there_is_room_for():
    room, guard = Room(100), threading.Lock()
    held, most = [0], [0]

    def work(count):
        with room.taken(count):
            with guard:
                held[0] += min(count, 100)
                most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with guard:
                held[0] -= min(count, 100)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 45, 500, 10] * 8))
    assert 60 < most[0] <= 100
    assert room.free == 100


def test_slots_of_two_days_are_at_work_at_once(root, monkeypatch):
    """No slot ends before one of either day has begun: were the days done in turn, this would stand still."""
    real, days, both = run_module.read_slot, set(), threading.Event()

    def waiting(archive, job, settings):
        days.add(str(archive.times[job.slot])[:10])
        if len(days) == 2:
            both.set()
        assert both.wait(30)
        return real(archive, job, settings)

    monkeypatch.setattr(run_module, "read_slot", waiting)
    assert run(config(root)).written == SLOTS * 2


def test_a_cluster_by_its_address_writes_the_same_archive(root):
    settings = config(root)
    run(settings)
    alone = contents(settings.archive)
    shutil.rmtree(settings.archive)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        run(settings, connect=lambda: client)
    assert contents(settings.archive) == alone


def test_a_cluster_that_is_away_is_no_fault_of_the_archive_and_is_not_missed_when_nothing_is_new(root):
    def connect():
        return connect_to("tcp://127.0.0.1:9")

    settings = config(root)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(AwayError, match="does not answer: found nothing at tcp") as away,
    ):
        run(settings, connect=connect)
    assert isinstance(away.value, OSError), "what Prefect tries again"
    run(settings)
    assert run(settings, connect=connect).written == 0


@pytest.mark.soak
def test_workers_killed_on_the_way_cost_nothing(root):
    settings = config(root, channels=["ir105"], connections=2)
    run(settings)
    alone = contents(settings.archive)
    shutil.rmtree(settings.archive)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        victims = client.run(os.getpid)

        def kill_one():
            while not Archive.exists(settings.archive) or not (Archive.open(settings.archive).status > 0).any():
                time.sleep(0.01)
            os.kill(next(iter(victims.values())), signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        run(settings, connect=lambda: client)
        killer.join()
    archive = Archive.open(settings.archive)
    assert (archive.status == Status.COMPLETE).sum() == SLOTS
    assert contents(settings.archive) == alone
