"""The local stack: every service on loopback, without containers and without root. `make up`, `make down`.

State is one file, `data/stack/state.json`: what runs, by process id and start time, so that nothing else is ever
ended in its place. Started twice it starts what is missing; data outlive it.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from core.errors import FewcastError
from flows.pages import free_port

PATIENCE_SECONDS = 120


@dataclass(frozen=True)
class Service:
    """What to start, and the address that answers once it is well; empty: it is well while it lives."""

    name: str
    command: list[str]
    health: str = ""
    address: str = ""


@dataclass(frozen=True)
class Running:
    """A process of ours, that its start time tells from another with the same id."""

    pid: int
    started: float
    address: str

    def process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
            return process if same else None
        except psutil.NoSuchProcess:
            return None


class Stack:
    """The services over one data folder."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.folder = self.data / "stack"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state = self.folder / "state.json"

    def running(self) -> dict[str, Running]:
        """What was started and lives."""
        try:
            known = {name: Running(**entry) for name, entry in json.loads(self._state.read_text()).items()}
        except (OSError, ValueError, TypeError):
            known = {}
        return {name: entry for name, entry in known.items() if entry.process()}

    def up(self, configs: list[str]) -> dict[str, str]:
        """Start what is missing, wait until all is well, apply the deployments; returns the addresses."""
        ports = self._ports()
        environment = self._environment(ports)
        for service in self._services(ports):
            if service.name not in self.running():
                self._start(service, environment)
        for service in self._services(ports):
            self._wait(service)
        chosen = [word for config in configs for word in ("--config", config)]
        command = [
            sys.executable,
            "-m",
            "deployments.deploy",
            "--apply",
            "--working-dir",
            str(self.data.parent),
            *chosen,
        ]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return {service.name: service.address for service in self._services(ports) if service.address}

    def down(self) -> list[str]:
        """End what was started, the workers first; returns their names."""
        ended = []
        for name, entry in reversed(self.running().items()):
            if process := entry.process():
                family = [process, *process.children(recursive=True)]
                process.send_signal(signal.SIGTERM)
                _, alive = psutil.wait_procs(family, timeout=15)
                for left in alive:
                    left.kill()
                ended.append(name)
        self._state.unlink(missing_ok=True)
        return ended

    def _ports(self) -> dict[str, int]:
        """The ports of what lives, else the usual ones, else any free."""
        usual = {"prefect": 4200, "mlflow": 5000, "dask": 8786, "s3": 8333}
        lives = self.running()
        return {
            name: int(lives[name].address.rsplit(":", 1)[1]) if name in lives else free_port(port)
            for name, port in usual.items()
        }

    def _environment(self, ports: dict[str, int]) -> dict[str, str]:
        """The addresses, for all services and workers, and the S3 server's keys, made once and kept from others."""
        keys = self.folder / "s3-keys.json"
        if not keys.exists():
            keys.touch(mode=0o600)
            made = {"AWS_ACCESS_KEY_ID": secrets.token_hex(10), "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20)}
            keys.write_text(json.dumps(made))
        return {
            **os.environ,
            **json.loads(keys.read_text()),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{ports['dask']}",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes and 2 GB that nothing here uses
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{ports['mlflow']}",
            "PREFECT_API_URL": f"http://127.0.0.1:{ports['prefect']}/api",
            "PREFECT_HOME": str(self.data / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        }

    def _services(self, ports: dict[str, int]) -> list[Service]:
        from deployments.catalogue import CPU_POOL, GPU_POOL

        def module(*words: str) -> list[str]:
            return [sys.executable, "-m", *words]

        prefect, mlflow, s3 = (f"http://127.0.0.1:{ports[name]}" for name in ("prefect", "mlflow", "s3"))
        dask = f"tcp://127.0.0.1:{ports['dask']}"
        services = [
            Service("prefect", module("prefect", "server", "start", "--host", "127.0.0.1", "--port",
                    str(ports["prefect"])), f"{prefect}/api/health", prefect),
            Service("mlflow", module("mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port",
                    str(ports["mlflow"]), "--backend-store-uri", f"sqlite:///{self.data / 'mlflow.db'}",
                    "--artifacts-destination", str(self.data / "mlflow-artifacts")), f"{mlflow}/health", mlflow),
            Service("dask", module("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port",
                    str(ports["dask"]), "--dashboard-address", "127.0.0.1:0"), address=dask),
            Service("dask-worker", module("distributed.cli.dask_worker", dask, "--nworkers", "1", "--nthreads",
                    str(os.cpu_count() or 1), "--no-dashboard", "--local-directory", str(self.folder))),
            *(Service(f"worker-{pool}", module("prefect", "worker", "start", "--pool", pool, "--type", "process"))
              for pool in (CPU_POOL, GPU_POOL)),
        ]  # fmt: skip
        if weed := shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"):
            (self.folder / "s3").mkdir(exist_ok=True)
            options = {"dir": str(self.folder / "s3"), "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
                       "s3.port": str(ports["s3"]), "master.volumeSizeLimitMB": "256", "volume.max": "50"}  # fmt: skip
            command = [weed, "server", "-s3", "-filer", *(f"-{key}={value}" for key, value in options.items())]
            services.insert(2, Service("s3", command, f"{s3}/healthz", s3))
        return services

    def _start(self, service: Service, environment: dict[str, str]) -> None:
        with (self.folder / f"{service.name}.log").open("ab") as log:
            process = subprocess.Popen(
                service.command, env=environment, cwd=self.data.parent, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        started = psutil.Process(process.pid).create_time()
        now = {**self.running(), service.name: Running(process.pid, started, service.address)}
        beside = self._state.with_suffix(".new")
        beside.write_text(json.dumps({name: asdict(entry) for name, entry in now.items()}, indent=1))
        beside.replace(self._state)

    def _wait(self, service: Service) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and service.name in self.running():
            if not service.health or _answers(service.health):
                return
            time.sleep(0.2)
        raise FewcastError(
            f"{service.name} does not start",
            found=f"no answer from {service.health}" if service.health else "its process gone",
            mend=f"see {self.folder / service.name}.log, then run `make down` and `make up`",
        )


def main() -> int:
    """Bring the stack up or down, or say what of it runs."""
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data and of the state")
    parser.add_argument("--config", action="append", default=[], help="deploy these TOML files instead of the presets")
    options = parser.parse_args()
    stack = Stack(options.data)
    try:
        if options.action == "up":
            for name, address in stack.up(options.config).items():
                print(f"{name:<8} {address}")
        elif options.action == "down":
            print("ended", ", ".join(stack.down()) or "nothing")
        else:
            for name, entry in stack.running().items():
                print(f"{name:<24} pid {entry.pid:<8} {entry.address}")
    except FewcastError as error:
        print(f"fewcast: {error}", file=sys.stderr)
        return 1
    return 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
