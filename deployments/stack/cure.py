"""Runs whose worker was killed with them: no one is left to say that they have crashed, and they hold their limits."""

from collections.abc import Collection, Iterable

import httpx
import psutil

from flows.access import Auth

UNFINISHED = ["PENDING", "RUNNING", "CANCELLING"]
RUN_ID = "PREFECT__FLOW_RUN_ID"  # prefect's own mark on the process of a run


def crash_the_dead(api: str, auth: Auth | None, pools: Collection[str], alive: Collection[str]) -> list[str]:
    """Call crashed every unfinished run of the pools whose id is not among those `alive`; returns their names.

    To be asked while no worker of those pools lives: a run that has no process yet then never gets one.
    """
    asked = {
        "work_pools": {"name": {"any_": list(pools)}},
        "flow_runs": {"state": {"type": {"any_": UNFINISHED}}},
    }
    crashed = {"state": {"type": "CRASHED", "message": "its worker was killed, and its process is gone"}, "force": True}
    credentials = (auth.user, auth.password) if auth else None
    buried = []
    with httpx.Client(base_url=api, auth=credentials, timeout=30) as client:
        answer = client.post("/flow_runs/filter", json=asked)
        answer.raise_for_status()
        for run in answer.json():
            if run["id"] not in alive:
                client.post(f"/flow_runs/{run['id']}/set_state", json=crashed).raise_for_status()
                buried.append(run["name"])
    return buried


def runs_of(processes: Iterable[psutil.Process]) -> set[str]:
    """The ids of the flow runs that some processes are at work on."""
    found = set()
    for process in processes:
        try:
            found.add(process.environ().get(RUN_ID, ""))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
