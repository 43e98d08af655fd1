"""The deployments, through a real Prefect server: registered, described, started by hand, completed."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.config import load
from deployments.deploy import deployments
from flows.cli import PRESETS

TINY = Path(__file__).parents[1] / "flows" / "tiny.toml"
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def until(condition: Callable[[], Any], seconds: float, *processes: "subprocess.Popen[bytes]") -> Any:
    """The first true answer of `condition`; an error once time is up or a process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except httpx.TransportError:
            pass
        assert all(process.poll() is None for process in processes)
        time.sleep(0.25)
    raise TimeoutError


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deployments")


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[httpx.Client]:
    """A Prefect server on loopback with its records in a temporary folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30) as client:
            until(lambda: client.get("/health").status_code == 200, 90, server)
            yield client
    finally:
        end(server)


@pytest.fixture(scope="module")
def served(api: httpx.Client, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m deployments.deploy` beside it."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(api.base_url).rstrip("/"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "deployments.deploy", "--config", str(TINY)]
    with (folder / "deploy.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: api.get("/deployments/name/pipeline/tiny").status_code == 200, 60, process)
        yield process
    finally:
        end(process)


def test_a_pipeline_started_by_hand_completes(
    api: httpx.Client, served: "subprocess.Popen[bytes]", folder: Path
) -> None:
    deployment = api.get("/deployments/name/pipeline/tiny").json()
    assert deployment["parameters"]["config"]["train"]["steps"] == 4
    assert deployment["entrypoint"] == "flows.pipeline.pipeline"
    schema = deployment["parameter_openapi_schema"]
    described = schema["definitions"]["InnerConfig"]["properties"]["steps"]
    assert described["description"] == "Gradient steps M."
    assert (described["minimum"], described["maximum"]) == (0, 100)

    run = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"state": {"type": "SCHEDULED"}}).json()

    def final() -> str:
        state: str = api.get(f"/flow_runs/{run['id']}").json()["state"]["type"]
        return state if state in FINAL else ""

    state = until(final, 150, served)
    logs = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [run["id"]]}}}).json()
    assert state == "COMPLETED", [log["message"] for log in logs]
    artifacts = api.post("/artifacts/filter", json={}).json()
    assert {"ingest", "episodes", "train", "scorecard"} <= {artifact["key"] for artifact in artifacts}
    assert (folder / "data" / "tiny" / "scorecard").is_dir()
    assert (folder / "data" / "mlflow.db").is_file()


def test_the_form_refuses_a_bad_value(api: httpx.Client, served: "subprocess.Popen[bytes]") -> None:
    deployment = api.get("/deployments/name/pipeline/tiny").json()
    parameters = deployment["parameters"]
    parameters["config"]["train"]["inner"]["steps"] = 101
    answer = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters})
    assert answer.status_code in (409, 422)
    assert "100" in answer.text


def test_every_preset_can_be_started_and_live_sources_are_scheduled() -> None:
    configs = [load(path) for path in sorted(PRESETS.glob("*.toml"))]
    made = {(d.flow_name, d.name): d for d in deployments(configs)}
    assert {name for flow, name in made if flow == "pipeline"} == {config.name for config in configs}
    scheduled = made["ingest", "korea-latest"]
    assert scheduled.schedules
    assert scheduled.schedules[0].schedule.interval == timedelta(minutes=10)  # type: ignore[union-attr]
    assert all(d.description and d.tags for d in made.values())


def test_without_a_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    environment["PREFECT_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "deployments.deploy"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("fewcast: deployments need a Prefect server")
