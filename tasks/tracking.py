"""What MLflow remembers of a run. The only module that imports mlflow, and it does so off the main thread.

A run is written to a journal on local disk and delivered from there by a thread. The tracking server may be slow, away
or changed for another: training does not notice, and what was not delivered is, the next time that the run goes on.
"""

import contextvars
import logging
import os
import shutil
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from prefect.runtime import flow_run
from pydantic import BaseModel

import core
from core.config import TrackingConfig
from core.report import Silent
from tasks.journal import Delivered, Journal, read_delivered

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LOGGER = logging.getLogger(__name__)
_BATCH = 900  # a little under the 1,000 metrics that MLflow takes at once


class TrackedRun(Silent):
    """One MLflow run, as a `Report` and a context manager; it goes on where an earlier process left the same folder.

    The run ends FINISHED, FAILED on an exception, or KILLED on a signal. A `parent` is the folder of another tracked
    run, in which MLflow shows this one.
    """

    def __init__(
        self,
        folder: Path,
        tracking: TrackingConfig,
        name: str,
        config: BaseModel,
        *,
        parent: Path | None = None,
        tags: Mapping[str, str] | None = None,
        every_seconds: float = 5.0,
        patience_seconds: float = 60.0,
    ) -> None:
        self._tracking, self._name, self._parent = tracking, name, parent
        self._every, self._patience = every_seconds, patience_seconds
        self._journal = Journal(folder)
        self._journal.append("start", params=flatten(config), tags={**provenance(), **(tags or {})})
        self._ending = threading.Event()
        self._warned = False
        # With the task's context, so that a warning reaches the log of its run.
        body, context = self._deliver_until_end, contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(body,), daemon=True, name="fewcast-tracking")

    def __enter__(self) -> "TrackedRun":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._journal.append("end", status=status)
        self._ending.set()
        self._thread.join(self._patience)
        if self._thread.is_alive() or not is_delivered(self._journal.folder):
            _LOGGER.warning(
                "MLflow at %s has not all of %s; it is kept in %s and delivered when the run goes on",
                tracking_uri(self._tracking),
                self._name,
                self._journal.folder,
            )
        self._journal.close()

    @property
    def address(self) -> str:
        return self.address_of(self._journal.folder, self._tracking)

    @staticmethod
    def address_of(folder: Path, tracking: TrackingConfig) -> str:
        """Server and run id for a person, or where the run waits."""
        run_id = read_delivered(folder).run_id
        return f"{tracking_uri(tracking)}, run {run_id}" if run_id else f"{folder} (not delivered)"

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._journal.metrics(values, step)

    def figure(self, name: str, figure: Figure, step: int) -> None:
        path = self._journal.folder / "figures" / f"{name}-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=110, bbox_inches="tight")
        self.artifact(path, "figures")

    def artifact(self, path: Path, under: str = "") -> None:
        """Keep a file or a folder with the run."""
        self._journal.artifact(path, under)

    def tag(self, **tags: str) -> None:
        self._journal.append("tags", tags=tags)

    def _deliver_until_end(self) -> None:
        wait = self._every
        while True:
            ending = self._ending.wait(wait)
            try:
                self._deliver()
                wait = self._every
            except Exception as error:  # whatever it is, it must not touch the training
                wait = min(2 * wait, 120.0)
                if not self._warned:
                    self._warned = True
                    _LOGGER.warning(
                        "MLflow does not answer (%s): metrics wait in %s",
                        str(error).splitlines()[0] if str(error) else type(error).__name__,
                        self._journal.folder,
                    )
            if ending:
                return

    def _deliver(self) -> None:
        from mlflow.entities import Metric

        uri = tracking_uri(self._tracking)
        client = open_client(uri)
        delivered = self._journal.delivered
        if delivered.uri != uri or not _exists(client, delivered.run_id):
            delivered = Delivered(self._create(client, uri), uri, 0)
            self._journal.delivered = delivered
        run_id, waiting, offset = delivered.run_id, [], delivered.offset
        for record, end in self._journal.since(delivered.offset):
            if record["kind"] == "metrics":
                waiting += [Metric(_key(k), v, record["time"], record["step"]) for k, v in record["values"].items()]
            if waiting and (record["kind"] != "metrics" or len(waiting) >= _BATCH):
                client.log_batch(run_id, metrics=waiting[:1000])
                client.log_batch(run_id, metrics=waiting[1000:])
                waiting = []
            if record["kind"] != "metrics":
                self._tell(client, run_id, record)
            offset = end
            if not waiting:
                self._journal.delivered = Delivered(run_id, uri, offset)
        if waiting:
            client.log_batch(run_id, metrics=waiting[:1000])
            client.log_batch(run_id, metrics=waiting[1000:])
            self._journal.delivered = Delivered(run_id, uri, offset)

    def _create(self, client: "MlflowClient", uri: str) -> str:
        parent = read_delivered(self._parent) if self._parent else Delivered()
        nested = {"mlflow.parentRunId": parent.run_id} if parent.run_id and parent.uri == uri else {}
        experiment = _experiment(client, self._tracking, uri)
        run_id: str = client.create_run(experiment, run_name=self._name, tags=nested).info.run_id
        return run_id

    def _tell(self, client: "MlflowClient", run_id: str, record: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        if record["kind"] == "start":
            client.update_run(run_id, status="RUNNING")
            before = client.get_run(run_id).data.params
            params = record["params"]
            # MLflow's parameters cannot change
            changed = {f"changed.{key}": value for key, value in params.items() if before.get(key, value) != value}
            client.log_batch(
                run_id,
                params=[Param(key, value) for key, value in params.items() if key not in before],
                tags=[RunTag(key, value) for key, value in {**record["tags"], **changed}.items()],
            )
        elif record["kind"] == "tags":
            client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record["tags"].items()])
        elif record["kind"] == "artifact" and (path := Path(record["path"])).exists():
            if path.is_dir():
                client.log_artifacts(run_id, str(path), f"{record['under']}/{path.name}".lstrip("/"))
            else:
                client.log_artifact(run_id, str(path), record["under"] or None)
        elif record["kind"] == "end":
            client.set_terminated(run_id, record["status"])


def is_delivered(folder: Path) -> bool:
    """Whether a server has all of the run that `folder` keeps."""
    journal = folder / "journal.jsonl"
    return journal.exists() and read_delivered(folder).offset == journal.stat().st_size


def start_afresh(folder: Path) -> None:
    """Forget the run that `folder` keeps, so that the next one is another run."""
    shutil.rmtree(folder, ignore_errors=True)


def tracking_uri(tracking: TrackingConfig) -> str:
    """The config's server, else MLflow's own setting, else a SQLite file in data/."""
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or "sqlite:///data/mlflow.db"


def open_client(uri: str) -> "MlflowClient":
    """A client that gives up soon, since whoever asks can wait and try again; it makes the folder of a SQLite file."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def flatten(config: BaseModel, prefix: str = "") -> dict[str, str]:
    """A config as MLflow parameters: `inner.steps` -> "3"."""
    values: dict[str, str] = {}
    for key, value in config:
        values |= flatten(value, f"{prefix}{key}.") if isinstance(value, BaseModel) else {f"{prefix}{key}": str(value)}
    return values


def provenance() -> dict[str, str]:
    """Which code, in which flow run."""
    tags = {
        "prefect.flow_run_id": str(flow_run.get_id() or ""),
        "prefect.flow_run_name": str(flow_run.get_name() or ""),
    }
    where = Path(core.__file__).parent
    git = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.TimeoutExpired):  # an installed package may have no git
        answer = subprocess.run(git, capture_output=True, text=True, timeout=20)
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return {key: value for key, value in tags.items() if value}


def _experiment(client: "MlflowClient", tracking: TrackingConfig, uri: str) -> str:
    """The experiment by name, made where it is not; with a SQLite file its artifacts lie beside the file."""
    from mlflow.exceptions import MlflowException

    name = tracking.experiment or "fewcast"
    beside = None
    if uri.startswith("sqlite:///"):
        beside = (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlflow-artifacts" / name).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made: str = client.create_experiment(name, artifact_location=beside)
            return made
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether the server has the run and has not deleted it. Raises where the server does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(run_id) and client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _key(name: str) -> str:
    """MLflow takes letters, digits, _ - . : / and blanks in a metric's name."""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in name)
