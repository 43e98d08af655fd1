"""Which services the local stack has, how each is started, and what each is told: no more than it needs."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.pools import CPU_POOL, GPU_POOL
from deployments.stack.postgres import Postgres
from deployments.stack.processes import Service
from flows.access import MLFLOW_ASKS, Auth, pages_of_prefect
from flows.embedded import HEARTBEAT
from flows.logs import log_settings

PORTS = {"prefect": 4200, "mlflow": 5000, "dask": 8786, "s3": 8333, "postgres": 5432}
# Free ports, of which nobody needs to know the number.
INNER_PORTS = ("s3-master", "s3-master-grpc", "s3-volume", "s3-volume-grpc", "s3-filer", "s3-filer-grpc", "s3-grpc",
               f"worker-{CPU_POOL}", f"worker-{GPU_POOL}")  # fmt: skip
# How long Prefect's server keeps runs that have ended, with their logs and artifacts; by default for ever.
RETENTION = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 86400),  # seconds
}
POLL_SECONDS = 2  # how long work that is asked for may lie unseen; by default 10
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
BUCKET_KEYS = (*S3_KEYS, "AWS_ENDPOINT_URL", "AWS_PROFILE")  # any of them names a bucket of the operator's own


@dataclass(frozen=True)
class Plan:
    """Everything that decides how the services are started."""

    data: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]
    auth: Auth | None
    postgres: Postgres | None

    @property
    def folder(self) -> Path:
        return self.data / "stack"

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def environment(self) -> dict[str, str]:
        """What every process of fewcast is told: where the services are.

        Not the operator's keys to buckets: the servers touch none (MLflow's artifacts are in the data folder).
        """
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("FEWCAST_AUTH", "AWS_"))}
        return {
            **kept,
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_API_URL": f"{self.url('prefect')}/api",
            "PREFECT_HOME": str(self.data / "prefect"),
            "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
            **HEARTBEAT,
            **log_settings(),
        }

    def client_environment(self) -> dict[str, str]:
        """And what those that run flows are told besides: how to get in."""
        return {
            **self.environment(),
            **{key: value for key, value in os.environ.items() if key.startswith("AWS_")},
            **self._bucket(),
            "DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{self.ports['dask']}",
            "MLFLOW_TRACKING_URI": self.url("mlflow"),
            **(self.auth.for_clients() if self.auth else {}),
        }

    def _bucket(self) -> dict[str, str]:
        """The way to the stack's own S3 server, where there is one and the operator has not named another."""
        if not find_weed() or any(os.environ.get(key) for key in BUCKET_KEYS):
            return {}
        own = {"AWS_ENDPOINT_URL": self.url("s3"), "AWS_DEFAULT_REGION": "us-east-1"}
        return {key: self.secrets[key] for key in S3_KEYS} | own

    def databases(self) -> list[Service]:
        """What must answer before the servers start."""
        return [self.postgres.service()] if self.postgres else []

    def servers(self) -> list[Service]:
        """What workers talk to."""
        return [self._prefect(), self._mlflow(), *self._s3(), *self._dask()]

    def workers(self) -> list[Service]:
        """What runs flows; to be started once the server answers and knows the pools."""
        made = []
        for pool in (CPU_POOL, GPU_POOL):
            name = f"worker-{pool}"
            words = ("--pool", pool, "--type", "process", "--with-healthcheck")
            told = {
                "PREFECT_WORKER_QUERY_SECONDS": str(POLL_SECONDS),
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports[name]),
            }
            made.append(Service(name, _module("flows.worker", *words), f"{self.url(name)}/health",
                                environment=self.client_environment() | told))  # fmt: skip
        return made

    def _prefect(self) -> Service:
        address = self.url("prefect")
        words = ("--host", "127.0.0.1", "--port", str(self.ports["prefect"]))
        told = {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            **RETENTION,
            **pages_of_prefect(address),
            # In memory, a restart would forget who holds a limit, and keep the limit taken for ever.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            **(self.auth.for_prefect_server() if self.auth else {}),
            **(self.postgres.for_prefect() if self.postgres else {}),
        }
        return Service("prefect", _module("flows.server", *words), f"{address}/api/health", address,
                       self.environment() | told)  # fmt: skip

    def _mlflow(self) -> Service:
        address, port = self.url("mlflow"), self.ports["mlflow"]
        words = ["server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port),
                 "--artifacts-destination", str(self.data / "mlflow-artifacts"),
                 "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}"]  # fmt: skip
        told = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.data / 'mlflow.db'}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes and 2 GB that nothing here uses
            **(self.postgres.for_mlflow() if self.postgres else {}),
        }
        if self.auth:
            words += MLFLOW_ASKS
            told |= self.auth.for_mlflow_server(self.data, self.secrets["MLFLOW_FLASK_SERVER_SECRET_KEY"])
        return Service("mlflow", _module("mlflow", *words), f"{address}/health", address, self.environment() | told)

    def _s3(self) -> list[Service]:
        weed = find_weed()
        if not weed:
            return []
        folder = self.folder / "s3"
        folder.mkdir(exist_ok=True)
        options = {"dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.volumeSizeLimitMB": 256,
                   "volume.max": 50, "s3.port": self.ports["s3"], "s3.port.grpc": self.ports["s3-grpc"],
                   "s3.port.iceberg": 0, "s3.port.lance": 0}  # fmt: skip
        for part in ("master", "volume", "filer"):
            options |= {f"{part}.port": self.ports[f"s3-{part}"], f"{part}.port.grpc": self.ports[f"s3-{part}-grpc"]}
        command = [weed, "server", "-s3", "-filer", *(f"-{key}={value}" for key, value in options.items())]
        told = {"PATH": os.environ.get("PATH", os.defpath), **{key: self.secrets[key] for key in S3_KEYS}}
        return [Service("s3", command, f"{self.url('s3')}/healthz", self.url("s3"), told)]

    def _dask(self) -> list[Service]:
        address = f"tcp://127.0.0.1:{self.ports['dask']}"
        scheduler = ("--host", "127.0.0.1", "--port", str(self.ports["dask"]), "--dashboard-address", "127.0.0.1:0")
        # Whoever reaches a worker runs code on it, and its ports are on every interface unless told otherwise; its
        # HTTP server, which stays without a dashboard, is told apart.
        worker = (address, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--no-dashboard",
                  "--nworkers", "1", "--nthreads", str(os.cpu_count() or 1),
                  "--local-directory", str(self.folder))  # fmt: skip
        return [
            Service("dask", _module("distributed.cli.dask_scheduler", *scheduler), address=address,
                    environment=self.client_environment()),  # it opens archives while it reads a graph
            Service("dask-worker", _module("distributed.cli.dask_worker", *worker),
                    environment=self.client_environment()),
        ]  # fmt: skip


def find_weed() -> str:
    """SeaweedFS's program, from this environment or the PATH; empty where it is not installed."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") or ""


def _module(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]
