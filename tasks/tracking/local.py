"""Models by name, as files on this machine."""

from core.config import TrackingConfig
from core.errors import FewcastError
from tasks.tracking.uri import tracking_uri


def local_run(run: str, tracking: TrackingConfig) -> str:
    """`run` itself; or, for `models:/NAME@ALIAS` or `models:/NAME/VERSION`, the model's checkpoint on this machine."""
    if not run.startswith("models:/"):
        return run
    # Here and not above: mlflow takes seconds to import.
    from mlflow import artifacts
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    client, name = open_client(tracking_uri(tracking)), run.removeprefix("models:/")
    try:
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        uri, own = f"{version.source}/artifacts", tracking_uri(tracking)
        folder = artifacts.download_artifacts(uri, tracking_uri=own)
    except (MlflowException, OSError, TypeError) as error:
        raise FewcastError(
            f"there is no model {run}", found=str(error).splitlines()[0],
            mend="train a model and run the deployment `promote`, or set forecast.run to a training run's folder"
            if "@" in name
            else "name one as models:/NAME/VERSION, as the registry's page shows it",
        ) from error  # fmt: skip
    return folder
