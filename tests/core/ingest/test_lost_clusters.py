"""Clusters that are lost on the way: one clear line, and the next run ends with the archive of an undisturbed one."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster

from core import pool
from core.archive import Archive, Status
from core.errors import FewcastError
from core.ingest import run as run_module
from tests.core.ingest.world import config, contents, run
from tests.core.loopback import lone_cluster

DEADLY = np.datetime64("2024-03-02T00:30")


@pytest.fixture
def alone(root):
    """What an undisturbed ingest leaves."""
    settings = config(root)
    run(settings)
    whole = contents(settings.archive)
    shutil.rmtree(settings.archive)
    return whole


def test_workers_that_keep_dying_are_one_clear_line_and_cost_nothing(root, alone, monkeypatch):
    real = run_module.read_slot

    def deadly(archive, job, settings):
        if archive.times[job.slot] == DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(archive, job, settings)

    settings = config(root)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster.scheduler_address) as client,
        monkeypatch.context() as patch,
    ):
        patch.setattr(run_module, "read_slot", deadly)
        message = (
            r"keep dying: found 4 died at the slot of 2024-03-02 00:30, the last of them tcp://.*; look into .* kept$"
        )
        with pytest.raises(FewcastError, match=message) as failed:
            run(settings, connect=lambda: client)
        assert "\n" not in str(failed.value)
        status = Archive.open(settings.archive).status
        assert (status == Status.COMPLETE).any(), "what ended before is recorded"
        patch.undo()
        run(settings, connect=lambda: client)
    assert contents(settings.archive) == alone


@pytest.mark.parametrize("victim", ["worker", "scheduler"])
def test_a_cluster_that_is_gone_is_one_clear_line_and_costs_nothing(root, alone, monkeypatch, victim):
    """The only worker, or the scheduler, is killed after the first frames."""
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.2)
    settings, real = config(root), run_module.read_slot

    def slow(archive, job, settings):
        time.sleep(0.3)
        return real(archive, job, settings)

    def kill():
        while len(list(Path(settings.archive).glob("reflectance/c/*/0/0/0"))) < 3:
            time.sleep(0.01)
        os.kill((worker if victim == "worker" else scheduler).pid, signal.SIGKILL)

    with lone_cluster() as (address, scheduler, worker), Client(address, timeout=30) as client:
        client.wait_for_workers(1, timeout=60)
        monkeypatch.setattr(run_module, "read_slot", slow)
        killer = threading.Thread(target=kill)
        killer.start()
        line = {
            "worker": "has no workers: found none at tcp",
            "scheduler": "scheduler was lost: found no connection",
        }
        with pytest.raises(FewcastError, match=line[victim]):
            run(settings, connect=lambda: client)
        killer.join()
    monkeypatch.setattr(run_module, "read_slot", real)
    assert (Archive.open(settings.archive).status == Status.COMPLETE).any()
    run(settings)
    assert contents(settings.archive) == alone
