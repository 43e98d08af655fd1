"""Models by name, as files on this machine."""

import os
import shutil
from hashlib import sha256
from pathlib import Path

from core.config import TrackingConfig
from core.errors import FewcastError
from tasks.tracking.uri import tracking_uri

KEPT = Path("data/models")


def local_run(run: str, tracking: TrackingConfig) -> str:
    """`run` itself; or, for `models:/NAME@ALIAS` or `models:/NAME/VERSION`, the model's checkpoint on this machine.

    A version never changes: from a server it is fetched once, and kept in `data/models`.
    """
    if not run.startswith("models:/"):
        return run
    # Here and not above: mlflow takes seconds to import.
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    own, name = tracking_uri(tracking), run.removeprefix("models:/")
    try:
        client = open_client(own)
        if "@" in name:
            version = client.get_model_version_by_alias(*name.split("@", 1))
        else:
            version = client.get_model_version(*name.rsplit("/", 1))
        return _fetched(f"{version.source}/artifacts", own, version.name)
    except (MlflowException, OSError, TypeError) as error:
        raise FewcastError(
            f"there is no model {run}", found=str(error).splitlines()[0],
            mend="train a model and run the deployment `promote`, or set forecast.run to a training run's folder"
            if "@" in name
            else "name one as models:/NAME/VERSION, as the registry's page shows it",
        ) from error  # fmt: skip


def _fetched(uri: str, server: str, name: str) -> str:
    """The files of a version: where they are, if on this disk, or a copy that appears whole or not at all.

    The trap: without a place of ours MLflow makes a temporary copy each time, and deletes none.
    """
    from mlflow import artifacts

    if not server.startswith("http"):
        return artifacts.download_artifacts(uri, tracking_uri=server)
    place = KEPT / name / sha256(f"{server} {uri}".encode()).hexdigest()[:16]
    if not place.exists():
        beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        found = Path(artifacts.download_artifacts(uri, tracking_uri=server, dst_path=str(beside)))
        try:
            found.rename(place)
        except OSError:
            if not place.exists():  # or another run was quicker
                raise
        shutil.rmtree(beside, ignore_errors=True)
    return str(place)
