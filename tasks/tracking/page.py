"""Where a person finds a run, or a model, in MLflow."""

import re
from pathlib import Path

from core.config import TrackingConfig
from tasks.tracking.journal import read_delivered
from tasks.tracking.uri import tracking_uri


def run_page(folder: Path) -> str:
    """The run whose record lies in a folder: a Markdown link to its page, or where to look if no server shows one."""
    delivered = read_delivered(folder)
    if not delivered.run_id:
        return f"{folder} (not delivered)"
    words = f"{delivered.uri}, run {delivered.run_id}"
    if not delivered.uri.startswith("http"):
        return words
    # Here and not above: mlflow takes seconds to import.
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    try:
        experiment = open_client(delivered.uri).get_run(delivered.run_id).info.experiment_id
    except MlflowException:  # away: the words say where it is
        return words
    return f"[{words}]({delivered.uri.rstrip('/')}/#/experiments/{experiment}/runs/{delivered.run_id})"


def model_page(run: str, tracking: TrackingConfig) -> str:
    """A registered model (`models:/NAME@ALIAS`): a Markdown link to its page; otherwise the words alone."""
    uri, name = tracking_uri(tracking), re.match(r"models:/([^@/]+)", run)
    return f"[{run}]({uri.rstrip('/')}/#/models/{name[1]})" if name and uri.startswith("http") else run
