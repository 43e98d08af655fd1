"""Where a person finds a run's page in MLflow."""

from pathlib import Path

from tasks.tracking.journal import read_delivered


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
