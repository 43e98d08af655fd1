"""From a journal to an MLflow server: each record in MLflow's own terms, each batch once."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from PIL import Image

from core.config import TrackingConfig
from tasks.tracking.journal import Delivered, Journal, read_delivered
from tasks.tracking.model import register
from tasks.tracking.server import exists, experiment_id, open_client
from tasks.tracking.uri import tracking_uri

_BATCH = 1000  # metrics that MLflow takes at once
_ABOVE_SECONDS = 15.0  # what a run waits for the run above it to be known


def deliver(journal: Journal, tracking: TrackingConfig, name: str, parent: Path | None) -> None:
    """Tell the server all that it does not have yet; raises whatever the server or the way to it does.

    A metric that is told twice, since a kill fell between telling and noting it, is one metric to MLflow: the time,
    step and value are the journal's.
    """
    uri = tracking_uri(tracking)
    client = open_client(uri)
    delivered = journal.delivered
    if delivered.uri != uri or not exists(client, delivered.run_id):
        delivered = Delivered(_create(client, uri, tracking, name), uri, 0)
        journal.delivered = delivered
    run_id, waiting, offset = delivered.run_id, list[Metric](), delivered.offset

    def flush() -> None:
        for start in range(0, len(waiting), _BATCH):
            client.log_batch(run_id, metrics=waiting[start : start + _BATCH])
        waiting.clear()
        if offset != journal.delivered.offset:
            journal.delivered = Delivered(run_id, uri, offset)

    for record, end in journal.since(delivered.offset):
        if record["kind"] == "metrics":
            waiting += [Metric(_key(k), v, record["time"], record["step"]) for k, v in record["values"].items()]
        else:
            flush()
            if record["kind"] in ("start", "end"):  # at its start the run above may not be there yet
                _nest(client, uri, run_id, parent)
            if record["kind"] == "model":
                name = tracking.experiment or "fewcast"
                _tell_model(client, run_id, record, name, is_candidate=parent is None)
            else:
                _tell(client, run_id, record)
        offset = end
        if len(waiting) >= _BATCH:
            flush()
    flush()


def _create(client: MlflowClient, uri: str, tracking: TrackingConfig, name: str) -> str:
    experiment = experiment_id(client, tracking.experiment or "fewcast", uri)
    run_id: str = client.create_run(experiment, run_name=name).info.run_id
    return run_id


def _nest(client: MlflowClient, uri: str, run_id: str, parent: Path | None) -> None:
    if parent is None:
        return
    deadline = time.monotonic() + _ABOVE_SECONDS
    while not (above := read_delivered(parent)).run_id and parent.is_dir() and time.monotonic() < deadline:
        time.sleep(0.2)  # it has only just begun, and has a thread of its own
    if above.run_id and above.uri == uri:
        client.set_tag(run_id, "mlflow.parentRunId", above.run_id)


def _tell_model(client: MlflowClient, run_id: str, record: dict[str, Any], name: str, *, is_candidate: bool) -> None:
    """A model as a version of its name; of a run inside another, as in a sweep, it is no candidate."""
    if Path(record["path"]).is_dir():
        register(client, run_id, Path(record["path"]), name, record["tags"], is_candidate=is_candidate)


def _tell(client: MlflowClient, run_id: str, record: dict[str, Any]) -> None:
    kind = record["kind"]
    if kind == "start":
        client.update_run(run_id, status="RUNNING")
        told, params = client.get_run(run_id).data, record["params"]
        before = told.params
        # MLflow's parameters cannot change.
        changed = {f"changed.{key}": value for key, value in params.items() if before.get(key, value) != value}
        for back in (key for key in told.tags if key.startswith("changed.") and key not in changed):
            client.delete_tag(run_id, back)
        client.log_batch(
            run_id,
            params=[Param(key, value) for key, value in params.items() if key not in before],
            tags=[RunTag(key, value) for key, value in {**record["tags"], **changed}.items()],
        )
    elif kind == "tags":
        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in record["tags"].items()])
    elif kind == "dataset":
        dataset = Dataset(record["name"], record["digest"][:36], "fewcast", record["source"], None, record["profile"])
        client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
    elif kind == "artifact" and (path := Path(record["path"])).is_dir():
        with suppress(FileNotFoundError):  # a checkpoint that the run has just put away for a newer one
            client.log_artifacts(run_id, str(path), f"{record['under']}/{path.name}".lstrip("/"))
    elif kind == "artifact" and path.exists():
        client.log_artifact(run_id, str(path), record["under"] or None)
    elif kind == "image" and Path(record["path"]).exists():
        _tell_image(client, run_id, record)
    elif kind == "table" and Path(record["path"]).exists():
        _tell_table(client, run_id, record)
    elif kind == "end":
        client.set_terminated(run_id, record["status"])


def _tell_image(client: MlflowClient, run_id: str, record: dict[str, Any]) -> None:
    """A picture of a step, once: each call would add another one. The small copy is what MLflow writes last."""
    begins = f"images/{record['key']}+step+{record['step']}+timestamp+{record['time']}+"
    told = [file.path for file in client.list_artifacts(run_id, "images") if file.path.startswith(begins)]
    if not any("+compressed" in path for path in told):
        with Image.open(record["path"]) as picture:
            client.log_image(
                run_id, picture, key=record["key"], step=record["step"], timestamp=record["time"], synchronous=True
            )


def _tell_table(client: MlflowClient, run_id: str, record: dict[str, Any]) -> None:
    """A Parquet file as a table, once: each call would append its rows, so where they are there it appends none."""
    table, name = pd.read_parquet(record["path"]), record["name"]
    there = name in (file.path for file in client.list_artifacts(run_id))
    client.log_table(run_id, table.iloc[:0] if there else table, name)


def _key(name: str) -> str:
    """MLflow takes letters, digits, _ - . : / and blanks in a metric's name."""
    return "".join(letter if letter.isalnum() or letter in "_-./: " else "_" for letter in name)
