"""Prefect and MLflow on PostgreSQL, behind a password; their records survive a restart, and a backup."""

import base64
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core.archive import Archive
from core.errors import FewcastError
from deployments.backup import restore, save
from deployments.stack import Stack
from deployments.stack.postgres import client_environment, find_program, owner
from tests.deployments.test_backup import GRID

try:
    find_program("initdb")
    MISSING = ""
except FewcastError as error:
    MISSING = str(error)
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING), pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
SERVERS = ("prefect", "mlflow")
AUTH = "someone:" + "a password of the test"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the user whom PostgreSQL runs as may enter, and the stacks in it ended."""
    monkeypatch.setenv("FEWCAST_AUTH", AUTH)
    path = Path(tempfile.mkdtemp(prefix="fewcast-postgres-"))
    path.chmod(0o755)
    yield path
    for data in (path / "data", path / "again" / "data"):
        if (data / "stack").is_dir():
            Stack(data).down()
    shutil.rmtree(path)


def ask(url: str, body: dict[str, Any] | None = None, auth: str = AUTH) -> Any:
    headers = {"Content-Type": "application/json"}
    if auth:
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def records(addresses: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names of the flows that Prefect knows, and of the experiments that MLflow knows."""
    flows = ask(f"{addresses['prefect']}/api/flows/filter", {})
    found = ask(f"{addresses['mlflow']}/api/2.0/mlflow/experiments/search?max_results=100")
    return sorted(flow["name"] for flow in flows), sorted(one["name"] for one in found["experiments"])


def groups(pid: int) -> set[int]:
    """Every group that a process is in."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(word) for line in status if line.startswith(("Gid:", "Groups:")) for word in line.split()[1:]}


def test_records_are_in_postgres_behind_a_password_and_survive(folder: Path) -> None:
    stack = Stack(folder / "data")
    addresses = stack.up(profile="postgres", only=SERVERS, deploy=False)
    assert {*stack.running()} == {"postgres", *SERVERS}
    for url in (f"{addresses['prefect']}/api/flows/count", f"{addresses['mlflow']}/api/2.0/mlflow/experiments/search"):
        for wrong in ("", "someone:another password"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(url, {}, auth=wrong)
    ask(f"{addresses['prefect']}/api/flows/", {"name": "kept"})
    ask(f"{addresses['mlflow']}/api/2.0/mlflow/experiments/create", {"name": "kept too"})
    before = records(addresses)
    assert "kept" in before[0]
    assert "kept too" in before[1]
    if os.geteuid() == 0:
        process = stack.running()["postgres"].process()
        assert process.username() == owner() != "root"
        assert groups(process.pid) == {pwd.getpwnam(owner()).pw_gid}
    assert not (folder / "data" / "prefect" / "prefect.db").exists()
    assert not (folder / "data" / "mlflow.db").exists()
    assert "database prefect" in save(folder / "data", folder / "backup")
    stack.down()
    assert stack.processes.marked() == []

    restore(folder / "again" / "data", folder / "backup")
    again = Stack(folder / "again" / "data")
    assert records(again.up(only=SERVERS, deploy=False)) == before
    again.down()


def test_the_backup_of_the_containers_brings_back_what_was_there(folder: Path, tmp_path: Path) -> None:
    """The commands of infra/README.md, each here and not in a container."""
    recipe = (ROOT / "infra" / "README.md").read_text().partition("## Backup")[2].partition("## Traps")[0]
    _, saving, _, restoring, _ = re.findall(r"```\n(.*?)```", recipe, re.DOTALL)
    stack = Stack(folder / "data")
    plan = stack.plan("postgres")
    assert plan.postgres is not None
    [service] = plan.databases()
    stack.processes.start(service, folder)
    plan.postgres.make_databases()
    archive = Archive.create(
        str(tmp_path / "data/korea/archive.zarr"), grid=GRID, channels={"ir": "brightness_temperature"},
        origin=datetime(2024, 6, 1, tzinfo=UTC), cadence_minutes=10, years=1,
    )  # fmt: skip
    (tmp_path / "mlflow" / "artifacts").mkdir(parents=True)
    (tmp_path / "mlflow" / "artifacts" / "model").write_text("weights")
    # The containers' socket asks for no password; this server does.
    told = client_environment(plan.postgres.port, "postgres", plan.secrets["POSTGRES_PASSWORD"]) | {
        **plan.secrets,
        "POSTGRES_USER": "postgres",
        "PATH": f"{Path(find_program('pg_dump')).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }

    def bash(commands: str) -> str:
        here = {
            "/srv/mlflow": str(tmp_path / "mlflow"),
            "/docker-entrypoint-initdb.d": str(ROOT / "infra" / "postgres"),
            "--preset korea": "--archive data/korea/archive.zarr",
        }
        for there, place in here.items():
            commands = commands.replace(there, place)
        script = f'set -euo pipefail\nwithin() {{ shift; "$@"; }}\n{commands}'
        done = subprocess.run(["bash", "-c", script], env=told, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def sql(role: str, words: str) -> str:
        return bash(f"PGUSER={role} PGPASSWORD=${role.upper()}_DATABASE_PASSWORD psql -qtAc '{words}' {role}")

    for role in ("prefect", "mlflow"):
        sql(role, "CREATE EXTENSION pg_trgm; CREATE TABLE kept (name text)")
        sql(role, "CREATE INDEX ON kept USING gin (name gin_trgm_ops)")
        sql(role, "INSERT INTO kept VALUES (current_user)")
    bash(saving)
    for place in (archive.url, str(tmp_path / "data/backup"), str(tmp_path / "mlflow" / "artifacts")):
        shutil.rmtree(place)
    for role in ("prefect", "mlflow"):
        sql(role, "UPDATE kept SET name = NULL; CREATE TABLE newer (name text)")
    bash(restoring)
    for role in ("prefect", "mlflow"):
        assert (
            sql(role, "SELECT tableowner, name FROM pg_tables, kept WHERE tablename = $$kept$$") == f"{role}|{role}\n"
        )
        assert sql(role, "SELECT count(*) FROM pg_tables WHERE schemaname = $$public$$") == "1\n"
    assert (tmp_path / "mlflow" / "artifacts" / "model").read_text() == "weights"
    assert Archive.exists(archive.url)


def test_what_makes_the_cluster_is_in_none_of_our_groups(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root hands the cluster over to another user")
    script = folder / "initdb"
    script.write_text("#!/bin/sh\nid -G >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr("deployments.stack.postgres.find_program", lambda name: str(script))
    with pytest.raises(FewcastError, match=rf"found {pwd.getpwnam(owner()).pw_gid}; "):
        Stack(folder / "data").plan("postgres")


def test_a_folder_that_it_may_not_enter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root hands the cluster over to another user")
    tmp_path.chmod(0o700)
    with pytest.raises(FewcastError, match=r"let the user \w+ into every folder above it"):
        Stack(tmp_path / "data").plan("postgres")


def test_without_the_programs_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(FewcastError, match=r"no program initdb; install the package postgresql"):
        find_program("initdb")
