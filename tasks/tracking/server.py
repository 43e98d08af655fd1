"""The MLflow server of a config: its client, and its experiments."""

import logging
import os
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from tasks.tracking.uri import FILE


def open_client(uri: str) -> MlflowClient:
    """A client that gives up soon, since whoever asks can wait and try again; it makes the folder of a SQLite file."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING), ("urllib3", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
    if uri.startswith(FILE):
        Path(uri.removeprefix(FILE)).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The experiment by name, made where it is not; with a SQLite file its artifacts lie beside the file."""
    beside = None
    if uri.startswith(FILE):
        beside = (Path(uri.removeprefix(FILE)).resolve().parent / "mlflow-artifacts" / name).as_uri()
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


def exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the server has the run and has not deleted it. Raises where the server does not answer."""
    try:
        return bool(run_id) and client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
