"""The deployments, applied for workers to a real Prefect server behind a password."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from core.config import load
from deployments.catalogue import catalogue
from deployments.deploy import reconcile
from flows.cli import PRESETS
from tasks.policies import GPU
from tests.deployments.servers import AUTH, prefect_server, reach
from tests.deployments.waiting import until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("applied")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[httpx.Client]:
    with prefect_server(folder) as client:
        yield client


def apply(
    folder: Path, told: dict[str, str], config: Path = PRESETS / "korea.toml"
) -> "subprocess.CompletedProcess[str]":
    """`python -m deployments.deploy --apply` of one preset."""
    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "true", **told}
    command = [sys.executable, "-m", "deployments.deploy", "--apply", "--config", str(config)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def state(api: httpx.Client) -> list[object]:
    """What the server holds of ours, but for moments and ids."""
    volatile = {"id", "created", "updated", "status", "last_polled", "flow_id", "version_id", "version_info",
                "default_queue_id", "created_by", "updated_by", "deployment_id", "version",
                "active_slots"}  # fmt: skip

    def plain(item: object) -> object:
        if isinstance(item, dict):
            return {key: plain(value) for key, value in item.items() if key not in volatile and value}
        return [plain(entry) for entry in item] if isinstance(item, list) else item

    kinds = ("deployments", "work_pools", "concurrency_limits", "automations")
    found = [api.post(f"/{kind}/filter", json={}).json() for kind in kinds]
    return [sorted(map(str, map(plain, items))) for items in found]


def test_applied_twice_it_changes_nothing(api: httpx.Client, folder: Path) -> None:
    said = []
    for _ in range(2):
        done = apply(folder, reach(api))
        assert done.returncode == 0, done.stderr
        said.append((done.stdout, state(api)))
    assert said[0] == said[1]
    assert "ingest/korea-latest, at */10 * * * * UTC" in said[0][0]
    assert len(said[0][1][0]) >= 9
    asked = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    until(lambda: api.post("/flow_runs/count", json=asked).text.strip("0").isdigit(), 120)  # the scheduler is at work
    names = [name for name in said[0][0].splitlines() if name.startswith("automation ")]
    assert len(said[0][1][3]) >= len(names) == len(set(names)) >= 8


def test_what_the_operator_switched_off_stays_off_and_the_limit_as_it_was_set(api: httpx.Client, folder: Path) -> None:
    assert apply(folder, reach(api)).returncode == 0
    paused = api.get("/deployments/name/train/korea").json()
    silent = api.get("/deployments/name/episodes/korea").json()
    rule = api.post("/automations/filter", json={}).json()[0]
    [schedule] = silent["schedules"]
    for method, path, body in (
        ("POST", f"/deployments/{paused['id']}/pause_deployment", None),
        ("PATCH", f"/deployments/{silent['id']}/schedules/{schedule['id']}", {"active": False}),
        ("PATCH", f"/automations/{rule['id']}", {"enabled": False}),
        ("POST", "/concurrency_limits/", {"tag": GPU, "concurrency_limit": 3}),
        ("POST", f"/deployments/{silent['id']}/schedules", [{"schedule": {"cron": "5 4 * * *"}, "active": True}]),
        ("POST", f"/deployments/{paused['id']}/schedules", [{"schedule": {"cron": "5 5 * * *"}, "slug": "mine"}]),
    ):
        answer = api.request(method, path, json=body)
        assert answer.is_success, answer.text
    before = state(api)
    done = apply(folder, reach(api))
    assert done.returncode == 0, done.stderr
    assert state(api) == before
    off = [line for line in done.stdout.splitlines() if line.endswith("(switched off)")]
    assert [line.split(",")[0] for line in off] == [
        "episodes/korea",
        "train/korea",
        f"automation {rule['name']} (switched off)",
    ]
    assert api.get("/deployments/name/train/korea").json()["paused"]
    schedules = api.get("/deployments/name/episodes/korea").json()["schedules"]
    assert {(one["slug"], one["active"]) for one in schedules} == {("fewcast", False), (None, True)}
    schedules = api.get("/deployments/name/train/korea").json()["schedules"]
    assert {one["slug"] for one in schedules} == {"fewcast", "mine"}
    assert not api.get(f"/automations/{rule['id']}").json()["enabled"]
    assert api.get(f"/concurrency_limits/tag/{GPU}").json()["concurrency_limit"] == 3


def test_a_schedule_that_the_config_no_longer_asks_for_goes_and_one_that_was_added_stays(
    api: httpx.Client, folder: Path
) -> None:
    config = folder / "moved.toml"
    live = (PRESETS / "korea.toml").read_text().replace('name = "korea"', 'name = "moved"')
    config.write_text(live)
    assert apply(folder, reach(api), config).returncode == 0
    checked = api.get("/deployments/name/archive-check/moved").json()
    added = [{"schedule": {"cron": "5 5 * * *"}, "slug": "mine"}]
    until(lambda: api.post(f"/deployments/{checked['id']}/schedules", json=added).is_success, 60)  # SQLite may be busy
    config.write_text(live.replace("s3://noaa-gk2a-pds", str(folder)))
    done = apply(folder, reach(api), config)
    assert done.returncode == 0, done.stderr
    assert "nowcast/moved, by hand" in done.stdout
    slugs = {
        name: [one["slug"] for one in api.get(f"/deployments/name/{name}/moved").json()["schedules"]]
        for name in ("nowcast", "episodes", "verify", "archive-check")
    }
    assert slugs == {"nowcast": [], "episodes": [], "verify": [], "archive-check": ["mine"]}


def test_what_the_end_of_a_serving_process_paused_is_not_taken_for_the_operators_word(api: httpx.Client) -> None:
    [entry] = [entry for entry in catalogue([load(PRESETS / "demo.toml")]) if entry.flow.name == "promote"]
    with temporary_settings({PREFECT_API_URL: reach(api)["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: AUTH}):
        served = entry.deployment().apply()
        with get_client(sync_client=True) as client:
            client.pause_deployment(served)
            applied = entry.deployment("/somewhere")
            reconcile(applied, client)
    assert not applied.paused


@pytest.mark.parametrize("auth", ["", "someone:another password"])
def test_without_the_password_it_says_what_to_set(api: httpx.Client, folder: Path, auth: str) -> None:
    done = apply(folder, {**reach(api), "FEWCAST_AUTH": auth})
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"fewcast: the Prefect server does not let us in: found status 401 from {reach(api)['PREFECT_API_URL']}; "
        "set FEWCAST_AUTH=user:password, or FEWCAST_AUTH_FILE, as the server has it"
    ]
