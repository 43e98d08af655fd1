"""The deployments, through a real Prefect server with a password: registered, described, started by hand, completed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.automations import Automation
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from core.config import load
from core.meta import checkpoint
from deployments.automations import apply_automations, automations, overdue, stale, stuck, zombies
from deployments.catalogue import catalogue
from flows.cli import PRESETS
from tasks.events import ARCHIVE_ADVANCED, ARCHIVE_GREW
from tasks.monitor import BY_A_RULE, failed_runs
from tests.deployments.servers import AUTH, prefect_server, reach
from tests.deployments.waiting import end, until

TINY = Path(__file__).parents[1] / "flows" / "tiny.toml"
# Real servers and real runs: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[httpx.Client]:
    with prefect_server(folder) as client:
        yield client


@pytest.fixture(scope="module")
def served(api: httpx.Client, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m deployments.deploy` beside it."""
    environment = {
        **os.environ,
        **reach(api),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "deployments.deploy", "--config", str(TINY)]
    with (folder / "deploy.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: api.get("/deployments/name/pipeline/tiny").status_code == 200, 120, process)
        yield process
    finally:
        end(process)


def ask(
    api: httpx.Client, served: "subprocess.Popen[bytes]", name: str, parameters: dict[str, Any] | None = None
) -> str:
    """Ask for a run of a deployment as the page's button does; its id."""
    deployment = api.get(f"/deployments/name/{name}").json()
    asked = {"state": {"type": "SCHEDULED"}, "parameters": parameters or deployment["parameters"]}

    def try_it() -> str:
        answer = api.post(f"/deployments/{deployment['id']}/create_flow_run", json=asked)
        assert answer.is_success or answer.status_code == 503, answer.text  # 503: SQLite is busy, ask again
        return str(answer.json()["id"]) if answer.is_success else ""

    return str(until(try_it, 60, served))


def outcome(api: httpx.Client, served: "subprocess.Popen[bytes]", run: str) -> str:
    """The final state of a run; the log of one that did not complete."""

    def final() -> str:
        state: str = api.get(f"/flow_runs/{run}").json()["state"]["type"]
        return state if state in FINAL else ""

    state: str = until(final, 400, served)
    if state != "COMPLETED":
        logs = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run]}}}).json()
        print(*(log["message"] for log in logs), sep="\n")
    return state


def start(
    api: httpx.Client, served: "subprocess.Popen[bytes]", name: str, parameters: dict[str, Any] | None = None
) -> str:
    """Start a deployment by hand, and wait for its final state."""
    return outcome(api, served, ask(api, served, name, parameters))


def test_a_pipeline_started_by_hand_completes(
    api: httpx.Client, served: "subprocess.Popen[bytes]", folder: Path
) -> None:
    deployment = api.get("/deployments/name/pipeline/tiny").json()
    assert deployment["parameters"]["config"]["train"]["steps"] == 4
    assert deployment["entrypoint"] == "flows.pipeline.pipeline"
    schema = deployment["parameter_openapi_schema"]
    described = schema["definitions"]["InnerConfig"]["properties"]["steps"]
    assert described["description"] == "Gradient steps M. From 0 to 100."
    assert (described["minimum"], described["maximum"]) == (0, 100)

    assert start(api, served, "pipeline/tiny") == "COMPLETED"
    artifacts = api.post("/artifacts/filter", json={}).json()
    assert {"ingest", "episodes", "train", "scorecard"} <= {artifact["key"] for artifact in artifacts}
    assert (folder / "data" / "tiny" / "scorecard").is_dir()
    assert (folder / "data" / "mlflow.db").is_file()


def test_the_champion_makes_a_nowcast(api: httpx.Client, served: "subprocess.Popen[bytes]", folder: Path) -> None:
    assert start(api, served, "promote/tiny") == "COMPLETED"
    deployment = api.get("/deployments/name/nowcast/tiny").json()
    parameters = deployment["parameters"]
    parameters["config"] |= {"run": "models:/tiny@champion", "members": 2}
    assert start(api, served, "nowcast/tiny", parameters) == "COMPLETED"
    assert list((folder / "data/tiny/forecasts").glob("*.zarr"))
    promotions = api.post("/artifacts/filter", json={"artifacts": {"key": {"any_": ["promotion"]}}}).json()
    assert "version 1 is champion: there was none" in promotions[0]["data"]


def test_a_training_cancelled_on_the_page_leaves_a_checkpoint(
    api: httpx.Client, served: "subprocess.Popen[bytes]", folder: Path
) -> None:
    parameters = until(lambda: api.get("/deployments/name/train/tiny").json().get("parameters"), 120, served)
    parameters["config"] |= {"run": "data/tiny/cancelled", "steps": 100_000, "validate_every": 1000}
    run = ask(api, served, "train/tiny", parameters)
    place = folder / "data/tiny/cancelled"
    until((place / "step_00000004").exists, 400, served)  # the pooled steps are over
    answer = api.post(f"/flow_runs/{run}/set_state", json={"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert answer.json()["status"] == "ACCEPT"
    assert outcome(api, served, run) == "CANCELLED"
    assert max(checkpoint.steps(place)) > 4
    assert checkpoint.load_latest(place) is not None


def test_an_evaluation_follows_a_training_and_the_promotion_follows_it(
    api: httpx.Client, served: "subprocess.Popen[bytes]"
) -> None:
    def ended(flow: str) -> int:
        asked = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        return int(api.post("/flow_runs/count", json=asked).json())

    before = {flow: ended(flow) for flow in ("evaluate", "promote")}
    assert start(api, served, "train/tiny") == "COMPLETED"
    for flow in before:
        until(lambda flow=flow: ended(flow) > before[flow], 200, served)


def test_the_form_refuses_a_bad_value(api: httpx.Client, served: "subprocess.Popen[bytes]") -> None:
    deployment = api.get("/deployments/name/pipeline/tiny").json()
    parameters = deployment["parameters"]
    parameters["config"]["train"]["inner"]["steps"] = 101
    parameters["config"]["ingest"]["sector"] = "f"  # which no schema can refuse: it is GOES's, and the system GK-2A
    answer = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters})
    assert answer.status_code == 409
    assert answer.json()["detail"] == (
        "Error creating flow run: config.ingest is refused: found sector 'f' is none of gk2a's: fd, la; "
        "give it as described: Granules to archive. (and 1 more)"
    )
    asked = {"schema": deployment["parameter_openapi_schema"], "values": parameters}
    assert api.post("/ui/schemas/validate", json=asked).json()["valid"], "it is told where the run is started"


def test_every_preset_can_be_started_and_live_sources_follow_the_satellite() -> None:
    configs = [load(path) for path in sorted(PRESETS.glob("*.toml"))]
    made = {entry.path: entry for entry in catalogue(configs)}
    assert {path for path in made if path.startswith("pipeline/")} == {f"pipeline/{config.name}" for config in configs}
    assert made["ingest/korea-latest"].cron == "*/10 * * * *"
    assert made["nowcast/korea"].on_growth_of == made["archive-alarm/korea"].on_silence_of == "data/korea/archive.zarr"
    assert made["nowcast/korea"].cron == "5-59/10 * * * *"
    assert made["evaluate/korea"].after == "train/korea"
    assert made["promote/korea"].after == "evaluate/korea"
    assert made["train/korea"].parameters["renew"]
    assert not made["train/demo"].parameters["renew"]
    runs = [made[f"evaluate/{name}"].parameters["config"]["run"] for name in ("korea", "demo")]
    assert runs == ["data/korea/run.latest", "data/demo/run"]
    sources = [path.read_text() for path in PRESETS.parent.glob("*.py")]
    flows = {name for source in sources for name in re.findall(r'@flow\(name="([^"]+)"', source)}
    assert {entry.flow.name for entry in made.values()} == flows
    for flow in ("episodes", "train", "archive-check", "verify"):
        assert made[f"{flow}/korea"].cron
        assert not made[f"{flow}/demo"].cron
    assert made["nowcast/demo"].starts == "by hand"
    for entry in made.values():
        deployment = entry.deployment()
        assert entry.starts in str(deployment.description)
        assert {entry.flow.name, entry.limit_tag} == {*deployment.tags}
        assert (deployment.concurrency_limit, bool(deployment.schedules)) == (1, bool(entry.cron))
        told = entry.deployment("/somewhere").job_variables
        assert told.pop("command", "").startswith(sys.executable) == entry.prompt
        assert told == {"working_dir": "/somewhere"}
    prompt = {path for path, entry in made.items() if entry.prompt and path.endswith(("/korea", "/korea-latest"))}
    assert prompt == {"ingest/korea-latest", "nowcast/korea", "monitor/korea"}


@pytest.mark.parametrize(("cadence", "oldest"), [(10, 60), (60, 240), (180, 720)])
def test_an_archive_is_stale_after_four_slots_and_a_nowcast_takes_frames_until_then(cadence: int, oldest: int) -> None:
    told = [f"ingest.cadence_minutes={cadence}", "forecast.max_age_minutes=0"]
    made = {entry.path: entry for entry in catalogue([load(PRESETS / "korea.toml", told)])}
    alarm = made["archive-alarm/korea"]
    assert alarm.silence == timedelta(minutes=4 * cadence)
    assert alarm.parameters["limit_minutes"] == 4 * cadence
    assert made["nowcast/korea"].parameters["config"]["max_age_minutes"] == oldest


def test_any_frame_starts_a_nowcast_and_only_a_complete_slot_keeps_the_alarm_quiet() -> None:
    config = load(PRESETS / "korea.toml")
    made = {entry.path: entry for entry in catalogue([config])}
    heard = {rule.name: rule.trigger.expect for rule in automations(made.values(), {path: uuid4() for path in made})}
    assert heard["fewcast: nowcast/korea when frames have come"] == {ARCHIVE_GREW}
    assert heard["fewcast: alarm when data/korea/archive.zarr is stale"] == {ARCHIVE_ADVANCED}
    assert made["monitor/korea"].parameters["config"]["channels"] == config.ingest.channels


def test_what_hangs_is_cancelled_what_died_is_crashed_and_silence_is_told(api: httpx.Client) -> None:
    flow = api.post("/flows/", json={"name": "hangs"}).json()

    def start(tag: str, state: str = "Running") -> str:
        asked = {"flow_id": flow["id"], "tags": [tag], "state": {"type": state.upper(), "name": state}}
        # SQLite may be busy (503): then it is asked again.
        return str(
            until(lambda: (answer := api.post("/flow_runs/", json=asked)).is_success and answer.json()["id"], 60)
        )

    [check] = [entry for entry in catalogue([load(PRESETS / "korea.toml")]) if entry.on_silence_of]
    with temporary_settings({PREFECT_API_URL: reach(api)["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: AUTH}):
        ids = {check.path: check.deployment().apply()}
        rules = [
            stale("an archive that nothing comes into", timedelta(seconds=10), check, ids, None),
            overdue(timedelta(seconds=10), "limit-of-this-test"),
            zombies(missed=2, beat=5),
            stuck(timedelta(seconds=10)),
        ]
        apply_automations(rules)
        try:
            hangs, dead, taken = start("limit-of-this-test"), start("another"), start("another", "Pending")
            beat = {
                "event": "prefect.flow-run.heartbeat",
                "id": str(uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
                "resource": {"prefect.resource.id": f"prefect.flow-run.{dead}"},
            }
            assert api.post("/events", json=[beat]).is_success
            until(lambda: api.get(f"/flow_runs/{hangs}").json()["state"]["type"] in ("CANCELLING", "CANCELLED"), 90)
            assert api.get(f"/flow_runs/{hangs}").json()["state"]["message"].startswith(BY_A_RULE)
            until(lambda: api.get(f"/flow_runs/{dead}").json()["state"]["type"] == "CRASHED", 90)
            until(lambda: api.get(f"/flow_runs/{taken}").json()["state"]["type"] == "CRASHED", 90)
            alarms = {"deployments": {"id": {"any_": [str(ids[check.path])]}}}
            until(lambda: int(api.post("/flow_runs/count", json=alarms).json()), 90)
        finally:
            for rule in rules:
                Automation.read(name=rule.name).delete()


def test_a_run_that_a_rule_cancels_has_failed_and_one_that_a_person_cancels_has_not(api: httpx.Client) -> None:
    def post(path: str, body: dict[str, Any]) -> str:
        """The id of what is made. SQLite may be busy (503): then it is asked again."""
        answer = until(lambda: (answer := api.post(path, json=body)).is_success and answer, 60)
        return str(answer.json().get("id"))

    deployment = post("/deployments/", {"name": "limited", "flow_id": post("/flows/", {"name": "limited"})})
    rule, person = f"{BY_A_RULE} {uuid4()}", "Cancelled from the page"
    begun = ("RUNNING", "")
    for states in (
        [begun, ("FAILED", "")],
        [begun, ("COMPLETED", "")],
        [begun, ("CANCELLING", rule), ("CANCELLED", "Flow run was cancelled successfully.")],
        [begun, ("CANCELLING", person), ("CANCELLED", "Flow run was cancelled successfully.")],
        [("CANCELLED", "Deployment concurrency limit reached.")],
    ):
        run = post(f"/deployments/{deployment}/create_flow_run", {})
        for kind, message in states:
            post(f"/flow_runs/{run}/set_state", {"state": {"type": kind, "message": message}, "force": True})
    with temporary_settings({PREFECT_API_URL: reach(api)["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: AUTH}):
        assert failed_runs("limited", datetime.now(UTC) - timedelta(hours=1))["limited"] == 2


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    environment["PREFECT_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.deploy"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("fewcast: deployments need a Prefect server")
