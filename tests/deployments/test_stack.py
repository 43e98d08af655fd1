"""The local stack knows its own processes, and ends no other; it gives each no more than it needs."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import HTTPServer, SimpleHTTPRequestHandler
from itertools import chain
from pathlib import Path

import psutil
import pytest

from core.errors import FewcastError
from deployments.stack import Stack
from deployments.stack.processes import Processes, Running, Service, answers, birth, listens
from deployments.stack.secrets import read_secrets
from deployments.stack.services import BUCKET_KEYS, INNER_PORTS, PORTS, Plan
from flows.access import Auth, read_auth
from flows.embedded import HEARTBEAT
from flows.pages import free_port

SOME_PORTS = dict(zip((*PORTS, *INNER_PORTS), range(10_000, 20_000), strict=False))
SLEEP = [sys.executable, "-c", "import time; time.sleep(100)"]
SPAWN = [
    sys.executable,
    "-c",
    "import subprocess as s, sys; s.Popen(sys.argv[1:], start_new_session=True).wait()",
    *SLEEP,
]


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_it_started_it_finds_and_ends(processes: Processes, tmp_path: Path) -> None:
    processes.start(Service("sleeper", SLEEP, address="x:1"), tmp_path)
    [entry] = Processes(tmp_path).running().values()
    assert entry.address == "x:1"
    processes.start(Service("sleeper", SLEEP), tmp_path)
    assert list(processes.running().values()) == [entry], "what lives is not started again"
    assert Processes(tmp_path).end_all() == ["sleeper"]
    assert entry.process() is None
    assert processes.end_all() == []


def test_a_long_log_is_put_aside_once(processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.stack.processes.LOG_BYTES", 10)
    log = tmp_path / "sleeper.log"
    for before, kept in (("short", []), ("a long log", []), ("a longer log", [1]), ("the longest log", [1])):
        log.write_text(before)
        processes.start(Service("sleeper", SLEEP), tmp_path)
        processes.end_all()
        assert log.read_text() == ("" if kept else before)
        assert [path.read_text() for path in tmp_path.glob("*.log.*")] == [before for _ in kept]


def test_what_a_killed_service_leaves_is_ended_too(processes: Processes, tmp_path: Path) -> None:
    processes.start(Service("parent", SPAWN), tmp_path)
    until(lambda: len(processes.marked()) == 2)
    [parent] = processes.running().values()
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: not processes.running())
    [orphan] = processes.marked()
    assert processes.end_all() == []
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_another_process_with_the_same_id_is_left_alone() -> None:
    mine = psutil.Process()
    entry = Running(mine.pid, mine.create_time(), "")
    assert entry.process() is not None
    assert replace(entry, started=entry.started - 60).process() is None


@pytest.mark.skipif(not birth(os.getpid()), reason="no /proc")
def test_a_step_of_the_clock_makes_no_stranger_of_a_process(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock set right after boot moves the times that processes began at, and `make up` started all a second time."""
    processes.start(Service("sleeper", SLEEP), tmp_path)
    [entry] = processes.running().values()
    began = psutil.Process.create_time
    with monkeypatch.context() as stepped:
        stepped.setattr(psutil.Process, "create_time", lambda process: began(process) + 5)
        assert entry.process() is not None
    boot, _, tick = entry.born.rpartition(" ")
    for other in (f"another-{boot} {tick}", f"{boot} {int(tick) + 1}"):
        assert replace(entry, born=other).process() is None
    assert replace(entry, born="").process() is not None, "as an earlier version noted it"
    assert processes.end_all() == ["sleeper"]


def test_a_service_that_ends_at_once_is_told_of_with_its_log(processes: Processes, tmp_path: Path) -> None:
    service = Service("brief", [sys.executable, "-c", "print('why')"], "http://127.0.0.1:9/")
    processes.start(service, tmp_path)
    with pytest.raises(FewcastError, match=r"brief does not start.*its process gone.*brief\.log"):
        processes.wait(service)


def test_a_stranger_that_answers_in_its_place_is_not_taken_for_it(
    processes: Processes, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("deployments.stack.processes.PATIENCE_SECONDS", 2)
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        processes.start(Service("sleeper", SLEEP, url), tmp_path)
        assert answers(url)
        assert listens(os.getpid(), url)
        with pytest.raises(FewcastError, match="sleeper does not start"):
            processes.wait(Service("sleeper", SLEEP, url))
    finally:
        server.shutdown()
        server.server_close()
        processes.end_all()


def test_secrets_are_kept_from_others_and_stay(tmp_path: Path) -> None:
    first = read_secrets(tmp_path)
    assert len(first["AWS_SECRET_ACCESS_KEY"]) == 40
    assert read_secrets(tmp_path) == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0


def test_each_service_is_on_loopback_and_told_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    secrets = read_secrets(tmp_path / "stack")
    auth = Auth("someone", "a long password")
    plan = Plan(tmp_path, SOME_PORTS, secrets, auth, None)
    services = {service.name: service for service in (*plan.servers(), *plan.workers())}
    assert {"prefect", "mlflow", "s3", "dask", "dask-worker", "worker-fewcast-cpu"} <= {*services}
    for service in services.values():
        line = " ".join(service.command)
        assert "0.0.0.0" not in line
        assert "127.0.0.1" in line + str(service.environment.get("PREFECT_WORKER_WEBSERVER_HOST"))
        if service.name.startswith("dask"):
            assert "--host 127.0.0.1" in line
            assert "--dashboard-address 127.0.0.1:0" in line
        assert not [value for value in (*secrets.values(), auth.password) if value in line], "others see it with ps"
        assert "FEWCAST_AUTH" not in service.environment
    assert secrets["AWS_SECRET_ACCESS_KEY"] not in services["prefect"].environment.values()
    assert "--allowed-hosts" in services["mlflow"].command
    assert services["prefect"].environment["PREFECT_SERVER_API_AUTH_STRING"] == "someone:a long password"
    assert services["worker-fewcast-cpu"].environment["MLFLOW_TRACKING_PASSWORD"] == "a long password"
    assert "a long password" not in repr(services)
    assert services["worker-fewcast-cpu"].environment.items() >= HEARTBEAT.items()


def test_dask_listens_on_loopback_alone(tmp_path: Path) -> None:
    """It unpickles what it is sent: the scheduler, the worker, the worker's nanny and the pages of all three."""
    (tmp_path / "stack").mkdir()
    plan = Plan(tmp_path, {**SOME_PORTS, "dask": free_port(0)}, read_secrets(tmp_path / "stack"), None, None)
    processes = Processes(plan.folder)

    def listening(name: str) -> list[str]:
        first = processes.running()[name].process()
        assert first is not None
        sockets = [s for one in (first, *first.children(recursive=True)) for s in one.net_connections()]
        return [socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN]

    try:
        for service in plan._dask():
            processes.start(service, tmp_path)
        until(lambda: "Registered to" in (plan.folder / "dask-worker.log").read_text(), 120)
        assert len(listening("dask")) >= 2
        assert len(listening("dask-worker")) >= 3
        assert {*listening("dask"), *listening("dask-worker")} <= {"127.0.0.1", "::1"}
    finally:
        processes.end_all()


def test_a_bucket_of_the_operators_own_is_left_to_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stack").mkdir()
    keys = {*BUCKET_KEYS, "AWS_DEFAULT_REGION"}
    for key in keys:
        monkeypatch.delenv(key, raising=False)
    plan = Plan(tmp_path, SOME_PORTS, read_secrets(tmp_path / "stack"), None, None)

    def told() -> dict[str, str]:
        return {key: value for key, value in plan.client_environment().items() if key in keys}

    monkeypatch.setattr("deployments.stack.services.find_weed", lambda: "weed")
    assert told()["AWS_ENDPOINT_URL"] == plan.url("s3")
    assert told()["AWS_SECRET_ACCESS_KEY"] == plan.secrets["AWS_SECRET_ACCESS_KEY"]
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert told() == {"AWS_PROFILE": "mine"}
    servers = {service.name: service.environment for service in plan.servers()}
    for name in ("prefect", "mlflow"):
        assert not [key for key in servers[name] if key.startswith("AWS_")], "they need no bucket"
    assert servers["dask"]["AWS_PROFILE"] == "mine"
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setattr("deployments.stack.services.find_weed", lambda: "")
    assert told() == {}, "no server of the stack's own"


@pytest.mark.parametrize("given", ["nobody", ":without a user", "someone:short", "someone"])
def test_a_bad_password_is_refused_and_not_shown(given: str) -> None:
    with pytest.raises(FewcastError, match="FEWCAST_AUTH is not user:password") as refusal:
        read_auth({"FEWCAST_AUTH": given})
    assert given not in str(refusal.value)


def test_a_password_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("someone:with: colons and blanks\n")
    assert read_auth({"FEWCAST_AUTH_FILE": str(tmp_path / "auth")}) == Auth("someone", "with: colons and blanks")
    assert read_auth({}) is None
    with pytest.raises(FewcastError, match="FEWCAST_AUTH_FILE cannot be read"):
        read_auth({"FEWCAST_AUTH_FILE": str(tmp_path / "absent")})


def test_ports_stay_from_one_start_to_the_next(tmp_path: Path) -> None:
    def twice(folder: Path) -> tuple[dict[str, int], dict[str, int]]:
        return Stack(folder)._ports(), Stack(folder)._ports()

    tries = [twice(tmp_path / name) for name in "abc"]  # between two starts a stranger may take one
    assert any(first == second for first, second in tries)
    assert all(len(set(ports.values())) == len(ports) for ports in chain(*tries))


def test_records_stay_in_the_profile_they_are_in(tmp_path: Path) -> None:
    assert Stack(tmp_path).plan().postgres is None
    with pytest.raises(FewcastError, match="are in sqlite"):
        Stack(tmp_path).plan("postgres")
    with pytest.raises(FewcastError, match="no such profile"):
        Stack(tmp_path).plan("oracle")


def test_a_profile_that_could_not_be_made_binds_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(FewcastError, match="leave PROFILE out for SQLite"):
        Stack(tmp_path).plan("postgres")
    assert Stack(tmp_path).plan().postgres is None


def test_a_folder_whose_workers_would_look_elsewhere_is_refused(tmp_path: Path) -> None:
    """Beside another's `data`, a folder of another name would have its workers write into the other's."""
    with pytest.raises(FewcastError, match=r"must be called data.*found .*restored.*give --data .*restored/data"):
        Stack(tmp_path / "restored").up()


def test_status_of_an_idle_folder_is_empty(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "deployments.stack", "status"]
    done = subprocess.run([*command, "--data", str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
