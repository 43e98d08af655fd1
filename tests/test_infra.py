"""The container files agree with themselves and with the code; no engine is needed, and none is used."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings.models.server.services import ServerServicesDBVacuumSettings

from deployments.automations import zombies
from deployments.pools import CPU_POOL, GPU_POOL
from deployments.stack.services import RETENTION
from flows import cli
from flows.access import pages_of_prefect
from flows.embedded import HEARTBEAT, HEARTBEAT_SECONDS

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MANIFESTS = [
    manifest
    for path in sorted((INFRA / "k8s").rglob("*.yaml"))
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text())
    if manifest
]
PODS = {
    manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"]
    for manifest in MANIFESTS
    if "template" in manifest.get("spec", {})
}
COMMANDS = {
    **{f"compose/{name}": service["command"] for name, service in SERVICES.items() if "command" in service},
    **{f"k8s/{name}": pod["containers"][0]["args"] for name, pod in PODS.items() if "args" in pod["containers"][0]},
}
PINNED = re.compile(r"[\w./-]+:\d+\.\d+[\w.-]*")
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH|_STORE_URI")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_limited_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert "build" in service or PINNED.fullmatch(service["image"])
    assert "mem_limit" in service
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert ("healthcheck" in service) == (service["restart"] != "no"), "all but a one-shot say how they are"
    for needed, how in service.get("depends_on", {}).items():
        once = SERVICES[needed]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_published_on_loopback_alone(name: str) -> None:
    assert "network_mode" not in SERVICES[name]
    assert all(str(port).startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_secret_comes_from_the_environment_and_must_be_there(name: str) -> None:
    example = (INFRA / ".env.example").read_text()
    for key, value in SERVICES[name].get("environment", {}).items():
        if SECRET.search(key) and not key.endswith("_PATH"):
            assert not re.sub(r"\$\{\w+:\?[^}]*\}", "", value).strip(":") or "://" in value
            for variable in re.findall(r"\$\{(\w+):\?", value) or [f"{key} has no variable"]:
                assert f"\n{variable}=\n" in example


def test_volumes_are_declared_and_used() -> None:
    mounts = [mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert {mount for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])
    assert all((INFRA / mount).is_file() for mount in mounts if mount.startswith("."))


@pytest.mark.parametrize("name", ["dask-scheduler", "dask-worker"])
def test_what_opens_archives_has_the_data_where_the_workers_have_them(name: str) -> None:
    data = "/srv/fewcast/data"
    assert SERVICES[name]["volumes"] == SERVICES["worker-cpu"]["volumes"] == [f"data:{data}"]
    assert PODS[name]["containers"][0]["volumeMounts"] == [{"name": "data", "mountPath": data}]
    assert PODS[name]["volumes"] == PODS["worker-cpu"]["volumes"]


def test_there_is_a_worker_for_each_pool() -> None:
    pools = [command[command.index("--pool") + 1] for command in COMMANDS.values() if "--pool" in command]
    assert set(pools) == {CPU_POOL, GPU_POOL}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_names_what_exists(name: str) -> None:
    program, *words = COMMANDS[name]
    if program == "python":
        assert words[0] == "-m"
        assert find_spec(words[1])
    elif program == "fewcast":
        cli._parser().parse_args(words)
    elif program == "server":
        assert name.endswith("/s3"), "seaweedfs"
    else:
        assert program in {script.name for script in entry_points(group="console_scripts")}


@pytest.mark.parametrize(
    "words",
    [["python", "-m", "flows.server"], ["python", "-m", "flows.worker"], ["mlflow", "server"]],
    ids=" ".join,
)
def test_the_pinned_commands_take_the_options_given(words: list[str], tmp_path: Path) -> None:
    given = [command for command in COMMANDS.values() if command[: len(words)] == words]
    help_text = subprocess.run(
        [str(Path(sys.executable).parent / words[0]), *words[1:], "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "PREFECT_HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    options = {word.split("=")[0] for command in given for word in command[len(words) :] if word.startswith("--")}
    assert given
    assert {option for option in options if option not in help_text} == set()


def test_the_dockerfile_copies_what_exists_and_may_be_sent() -> None:
    text = (INFRA / "Dockerfile").read_text()
    sent = (INFRA / "Dockerfile.dockerignore").read_text()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M) for word in line.split()]
    assert {"requirements.lock", "core", "tasks", "flows", "deployments"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}\n" in sent


def test_the_image_is_pinned_locked_unprivileged_and_has_both_targets() -> None:
    text = (INFRA / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.M)
    names = [name for _, name in stages]
    assert all(source in names or PINNED.fullmatch(source) for source, _ in stages)
    assert {"cpu", "cuda"} <= set(names)
    assert text.index("^torch==") < text.index("--constraint requirements.lock")
    assert "\nUSER 10001:10001\n" in text
    assert text.rindex("USER") < text.index("AS cpu"), "both targets run as that user"


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_pinned_limited_and_unprivileged(name: str) -> None:
    pod = PODS[name]
    assert pod["enableServiceLinks"] is False, "MLFLOW_PORT of the service would be read as an option"
    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"]:
        assert PINNED.fullmatch(container["image"])
        assert container["resources"]["limits"]["memory"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert (
            pod["restartPolicy"] == "OnFailure"
            if name == "deploy"
            else {"readinessProbe", "livenessProbe"} & {*container}
        )
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) and not variable["name"].endswith("_PATH"):
                value = variable.get("value", "$(")
                assert "valueFrom" in variable or "$(" in value


def test_kubernetes_runs_what_compose_runs() -> None:
    assert {*PODS} == {*SERVICES}
    for name, pod in PODS.items():
        ours, theirs = pod["containers"][0], SERVICES[name]
        assert ours["image"] == theirs["image"] or ours["image"].startswith("fewcast:")
        differ = {*ours.get("args", [])} ^ {*theirs.get("command", [])}
        assert all(re.search(r"-ip=|-volume\.max=|:87\d\d$", word) for word in differ), differ


def test_no_worker_is_restarted_since_its_server_is_away() -> None:
    """Its address of health says no then, and its runs would end with it."""
    for name in ("worker-cpu", "worker-gpu"):
        [container] = PODS[name]["containers"]
        assert "livenessProbe" not in container
        assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8080}


def test_what_runs_flows_beats_as_the_rule_for_dead_runs_expects() -> None:
    assert zombies().trigger.within.total_seconds() > 2 * HEARTBEAT_SECONDS
    [(key, value)] = HEARTBEAT.items()
    for name in ("worker-cpu", "worker-gpu"):
        assert SERVICES[name]["environment"][key] == value
    [client] = yaml.safe_load((INFRA / "k8s" / "kustomization.yaml").read_text())["configMapGenerator"]
    assert f"{key}={value}" in client["literals"]


def test_the_server_forgets_what_ended_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in RETENTION.items():
        monkeypatch.setenv(key, value)
    settings = ServerServicesDBVacuumSettings()
    assert settings.enabled_vacuum_types >= {"events", "flow_runs"}
    assert settings.retention_period.days == 30
    in_pod = {variable["name"]: variable.get("value", "") for variable in PODS["prefect"]["containers"][0]["env"]}
    for environment in (SERVICES["prefect"]["environment"], in_pod):
        assert environment.items() >= RETENTION.items()


def test_only_prefects_own_pages_may_ask_it() -> None:
    own = pages_of_prefect("http://127.0.0.1:4200", {})
    in_pod = {variable["name"]: variable.get("value", "") for variable in PODS["prefect"]["containers"][0]["env"]}
    for environment in (SERVICES["prefect"]["environment"], in_pod):
        for key, value in own.items():
            told = re.sub(
                r"\$\{FEWCAST_PREFECT_URL:-(.*?)\}|\$\(FEWCAST_PREFECT_URL\)", "http://127.0.0.1:4200", environment[key]
            )
            assert {*told.split(",")} == {*value.split(",")}


def test_kustomize_finds_its_files_and_the_pods_their_volumes() -> None:
    kustomization = yaml.safe_load((INFRA / "k8s" / "kustomization.yaml").read_text())
    assert all((INFRA / "k8s" / resource).exists() for resource in kustomization["resources"])
    assert {path.name for path in (INFRA / "k8s").glob("*.yaml")} - {"kustomization.yaml"} <= {
        *kustomization["resources"]
    }
    claims = {manifest["metadata"]["name"] for manifest in MANIFESTS if manifest["kind"] == "PersistentVolumeClaim"}
    volumes = [volume for pod in PODS.values() for volume in pod.get("volumes", [])]
    assert claims == {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}


@pytest.mark.skipif(not shutil.which("kubectl"), reason="no kubectl to render with")
@pytest.mark.parametrize(("folder", "dask"), [("k8s", "Deployment"), ("k8s-dask-operator", "DaskCluster")])
def test_kustomize_renders_and_every_name_is_found(folder: str, dask: str, tmp_path: Path) -> None:
    shutil.copytree(INFRA, tmp_path / "infra")
    example = (INFRA / ".env.example").read_text()
    (tmp_path / "infra" / "k8s" / "secrets.env").write_text(re.sub(r"^(\w+)=$", r"\1=x", example, flags=re.M))
    command = ["kubectl", "kustomize", str(tmp_path / "infra" / folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    made = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    assert dask in {manifest["kind"] for manifest in made if manifest["metadata"]["name"].startswith("dask")}
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in made}
    secrets, maps = ({name for kind, name in there if kind == wanted} for wanted in ("Secret", "ConfigMap"))
    assert {*re.findall(r"secretKeyRef:\n(?: +key: .+\n)? +name: (\S+)", text)} <= secrets
    assert {*re.findall(r"configMapRef:\n +name: (\S+)", text)} <= maps
    assert {*re.findall(r"configMap:\n +name: (\S+)", text)} <= maps
    [secret] = [manifest for manifest in made if manifest["kind"] == "Secret"]
    assert {*re.findall(r" key: (\w+)$", text, re.M)} - {"AWS_ENDPOINT_URL"} <= {*secret["data"]}


def test_both_ways_to_run_dask_are_the_same() -> None:
    cluster = yaml.safe_load((INFRA / "k8s-dask-operator" / "cluster.yaml").read_text())["spec"]
    for part in ("scheduler", "worker"):
        ours = cluster[part]["spec"]["containers"][0]
        theirs = PODS[f"dask-{part}"]["containers"][0]
        for key in ("image", "env", "envFrom", "securityContext", "volumeMounts"):
            assert ours[key] == theirs[key]
        assert cluster[part]["spec"]["volumes"] == PODS[f"dask-{part}"]["volumes"]
        assert {*theirs["args"]} <= {*ours["args"]}
        assert ours["resources"]["limits"] == theirs["resources"]["limits"]


def test_mlflow_asks_for_a_password_and_keeps_users_apart_from_artifacts() -> None:
    settings = configparser.ConfigParser()
    settings.read(INFRA / "mlflow" / "auth.ini")
    users = Path(settings["mlflow"]["database_uri"].removeprefix("sqlite:///"))
    for command in (SERVICES["mlflow"]["command"], PODS["mlflow"]["containers"][0]["args"]):
        assert "--app-name=basic-auth" in command
        [artifacts] = [word.split("=")[1] for word in command if word.startswith("--artifacts-destination=")]
        assert not users.is_relative_to(artifacts)


def test_the_backup_names_what_both_have() -> None:
    recipe = (INFRA / "README.md").read_text().partition("## Backup")[2].partition("## Traps")[0]
    assert {*re.findall(r"within (\S+) ", recipe)} == {"postgres", "mlflow", "dask-worker"} <= {*SERVICES} & {*PODS}
    assert {*re.findall(r"deployment/([a-z-]+)", recipe)} <= {*PODS}
    [namespace] = {*re.findall(r"kubectl -n (\S+)", recipe)}
    assert yaml.safe_load((INFRA / "k8s" / "kustomization.yaml").read_text())["namespace"] == namespace
    places = {name: {mount.split(":")[1] for mount in SERVICES[name]["volumes"]} for name in ("postgres", "mlflow")}
    for name, place in (("postgres", "/docker-entrypoint-initdb.d"), ("mlflow", "/srv/mlflow")):
        assert f"within {name} " in recipe
        assert place in recipe
        assert any(mount.startswith(place) for mount in places[name])
        assert place in {mount["mountPath"] for mount in PODS[name]["containers"][0]["volumeMounts"]}


def test_no_file_holds_a_secret() -> None:
    ignored = (INFRA / ".gitignore").read_text(), (INFRA / "k8s" / ".gitignore").read_text()
    assert ignored == (".env\n", "secrets.env\n")
    assert not re.search(r"^(?!TORCH)[A-Z_0-9]+=.+$", (INFRA / ".env.example").read_text(), re.M)


def test_mlflow_names_the_driver_that_the_image_has() -> None:
    assert '".[postgres]"' in (INFRA / "Dockerfile").read_text()
    project = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["postgres"] == ["psycopg2-binary"]
    in_pod = {variable["name"]: variable.get("value", "") for variable in PODS["mlflow"]["containers"][0]["env"]}
    for environment in (SERVICES["mlflow"]["environment"], in_pod):
        assert environment["MLFLOW_BACKEND_STORE_URI"].startswith("postgresql+psycopg2://"), (
            "SQLAlchemy's default is psycopg"
        )
