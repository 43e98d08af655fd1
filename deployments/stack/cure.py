"""Runs whose worker was killed with them: no one is left to say that they have crashed, and they hold their limits."""

import time
from collections.abc import Collection, Iterable
from typing import Any

import httpx
import psutil

from flows.access import Auth

UNFINISHED = ["PENDING", "RUNNING", "CANCELLING"]
TRIES = 5
RUN_ID = "PREFECT__FLOW_RUN_ID"  # prefect's own mark on the process of a run


def crash_the_dead(api: str, auth: Auth | None, pools: Collection[str], alive: Collection[str]) -> list[str]:
    """Call crashed every unfinished run of the pools whose id is not among those `alive`; returns their names.

    To be asked while no worker of those pools lives: a run that has no process yet then never gets one. A server that
    is too busy to hear of a run leaves it to the rules of the server itself, which are slower.
    """
    asked = {
        "work_pools": {"name": {"any_": list(pools)}},
        "flow_runs": {"state": {"type": {"any_": UNFINISHED}}},
    }
    crashed = {"state": {"type": "CRASHED", "message": "its worker was killed, and its process is gone"}, "force": True}
    credentials = (auth.user, auth.password) if auth else None
    buried = []
    with httpx.Client(base_url=api, auth=credentials, timeout=60) as client:
        for run in _insist(client, "/flow_runs/filter", asked) or []:
            if run["id"] not in alive and _insist(client, f"/flow_runs/{run['id']}/set_state", crashed):
                buried.append(run["name"])
    return buried


def _insist(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    """The server's answer; None if it gives none. SQLite makes it answer 503, or late, while it is busy."""
    for _ in range(TRIES):
        try:
            answer = client.post(path, json=body)
            if answer.is_success:
                return answer.json()
        except httpx.TransportError:
            pass
        time.sleep(1)
    return None


def runs_of(processes: Iterable[psutil.Process]) -> set[str]:
    """The ids of the flow runs that some processes are at work on."""
    found = set()
    for process in processes:
        try:
            found.add(process.environ().get(RUN_ID, ""))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
