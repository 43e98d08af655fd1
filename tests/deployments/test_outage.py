"""Runs outlive an absence of their server: none that lives is taken for dead, and each can still be cancelled."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flows.embedded import HEARTBEAT, HEARTBEAT_SECONDS
from tests.deployments.servers import prefect_server, reach
from tests.deployments.waiting import end, until

AWAY_SECONDS = 100  # more than the rule waits for a heartbeat, and than Prefect's observers try for
FLOW = """
import sys, time
from prefect import flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from deployments.automations import zombies

@flow
def sleeper():
    for _ in range(1200):
        time.sleep(1)

if __name__ == "__main__":
    zombies().create()
    limit = ConcurrencyLimitConfig(limit=1)
    there = sleeper.from_source(sys.argv[1], "sleeping.py:sleeper")
    there.deploy("x", work_pool_name="pool", concurrency_limit=limit, print_next_steps=False)
"""


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_run_outlives_an_absence_and_is_cancelled_after_it(tmp_path: Path) -> None:
    (tmp_path / "sleeping.py").write_text(FLOW)
    run = ""

    def state(api: httpx.Client) -> str:
        return str(until(lambda: api.get(f"/flow_runs/{run}").json().get("state_type"), 120))

    with prefect_server(tmp_path) as api:
        user, _, password = reach(api)["FEWCAST_AUTH"].partition(":")
        told = {**os.environ, **HEARTBEAT, "PREFECT_API_URL": reach(api)["PREFECT_API_URL"],
                "PREFECT_API_AUTH_STRING": f"{user}:{password}", "PREFECT_HOME": str(tmp_path / "client"),
                "PREFECT_WORKER_QUERY_SECONDS": "2", "PYTHONPATH": str(Path(__file__).parents[2])}  # fmt: skip
        api.post("/work_pools/", json={"name": "pool", "type": "process"}).raise_for_status()
        subprocess.run([sys.executable, tmp_path / "sleeping.py", tmp_path], env=told, cwd=tmp_path, check=True)
        command = [sys.executable, "-m", "flows.worker", "--pool", "pool", "--type", "process"]
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(command, env=told, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        [made] = api.post("/deployments/filter", json={}).json()
        run = api.post(f"/deployments/{made['id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}}).json()["id"]
        until(lambda: state(api) == "RUNNING", 120, worker)
        time.sleep(5)  # its first heartbeat
        port = api.base_url.port
    try:
        time.sleep(AWAY_SECONDS)
        with prefect_server(tmp_path, port or 0) as api:
            back = time.monotonic()
            while time.monotonic() < back + 4 * HEARTBEAT_SECONDS:
                assert state(api) == "RUNNING"
                time.sleep(5)
            asked = {"state": {"type": "CANCELLING"}}
            until(lambda: api.post(f"/flow_runs/{run}/set_state", json=asked).is_success, 60, worker)
            until(lambda: state(api) == "CANCELLED", 120, worker)
    finally:
        end(worker)
