"""Every stage's calls on a cluster: the results in order, the error of a call as it is, a lost cluster as one line."""

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from core import pool
from core.errors import AwayError, FewcastError
from core.fanout import fan_out
from tests.core.loopback import lone_cluster


def marked(folder: Path, number: int) -> int:
    (folder / str(number)).touch()
    time.sleep(0.1)
    return number * number


def failing(number: int) -> int:
    raise KeyError(number)


def away(number: int) -> int:
    raise AwayError("the bucket cannot be reached", found=f"{number} timeouts", mend="run again")


def test_results_come_in_order_and_errors_as_they_are():
    with lone_cluster() as (address, _, _), Client(address, timeout=30) as client:
        assert fan_out(abs, [-3, 1, -2], client=client) == [3, 1, 2] == fan_out(abs, [-3, 1, -2])
        with pytest.raises(KeyError, match="7"):
            fan_out(failing, [7], client=client)
        with pytest.raises(AwayError, match=r"cannot be reached: found 7 timeouts; run again$"):
            fan_out(away, [7], client=client)


@pytest.mark.parametrize("victim", ["worker", "scheduler"])
def test_a_cluster_that_is_lost_is_one_clear_line(tmp_path, monkeypatch, victim):
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.2)
    line = {"worker": "has no workers: found none at tcp", "scheduler": "scheduler was lost: found no connection"}

    def kill():
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.01)
        os.kill((worker if victim == "worker" else scheduler).pid, signal.SIGKILL)

    with lone_cluster() as (address, scheduler, worker), Client(address, timeout=30) as client:
        client.wait_for_workers(1, timeout=60)
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(FewcastError, match=line[victim]) as failed:
            fan_out(partial(marked, tmp_path), list(range(100)), client=client, note="marking")
        killer.join()
    assert "\n" not in str(failed.value)
