"""Models by name, and the checkpoints of runs, as files on this machine."""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import TrackingConfig
from core.errors import AwayError, FewcastError
from core.links import point
from core.report import Report, Silent
from tasks.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_MODELS, _RUNS = "models:/", "runs:/"
KEPT = Path("data/models")
UNUSED_SECONDS = 30 * 86400  # what nobody has asked for as long is deleted; no run may take as long
FETCHED = re.compile(r"[0-9a-f]{16}|\..+\.partial")  # the names that `_kept` gives; others are not ours to delete
BEST = "fewcast.best_checkpoint"
"""Tag of a training run in MLflow: which of its artifacts is its best checkpoint."""
AWAY = "see that the MLflow server runs, then run again"
# What MLflow answers where there is no such name, alias, version or run; everything else is no answer.
NO_SUCH = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def is_in_mlflow(run: str) -> bool:
    """Whether that is a name in MLflow, and not a place on this machine."""
    return run.startswith((_MODELS, _RUNS))


def local_run(run: str, tracking: TrackingConfig, report: Report | None = None) -> str:
    """`run` itself; or, for `models:/NAME@ALIAS` or `models:/NAME/VERSION`, the model's checkpoint on this machine.

    `runs:/ID` is the best checkpoint of a run, and `runs:/ID/checkpoints/step_...` one of those that MLflow has.
    Neither changes: from a server it is fetched once, and kept in `data/models` as long as it is used. While the server
    is away, the version that a model's name last stood for serves on, and the report says so: forecasts do not wait for
    a registry.
    Raises `FewcastError` where there is no such model, `AwayError` where nothing answers and nothing was kept.
    """
    if not is_in_mlflow(run):
        return run
    if run.startswith(_RUNS):
        return _of_a_run(run, tracking_uri(tracking))
    # Here and not above: mlflow takes seconds to import.
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    own, name = tracking_uri(tracking), run.removeprefix(_MODELS)
    last = KEPT / f"{name.replace('/', ' ')} {sha256(own.encode()).hexdigest()[:8]}"
    try:
        version = _version(open_client(own), name)
        if not own.startswith("http"):
            return _downloaded(f"{version.source}/artifacts", own)
        place = _kept(f"{version.source}/artifacts", own, version.name)
    except (MlflowException, OSError) as error:
        found = str(error).splitlines()[0]
        if isinstance(error, MlflowException) and error.error_code in NO_SUCH:
            raise _no_model(run, found) from error
        if not _used(last):
            raise AwayError(f"{own} does not say what {run} is", found=found, mend=AWAY) from error
        (report or Silent()).message(f"{own} does not answer: {run} is taken to be what it last was")
        return str(last.resolve())
    point(last, place.resolve())
    return str(place)


def training_run(run: str, tracking: TrackingConfig) -> str:
    """The id of the MLflow run that a model or checkpoint came out of; empty for a folder, or without an answer."""
    if run.startswith(_RUNS):
        return run.removeprefix(_RUNS).partition("/")[0]
    if not is_in_mlflow(run):
        return ""
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    try:
        return str(_version(open_client(tracking_uri(tracking)), run.removeprefix(_MODELS)).run_id or "")
    except MlflowException:
        return ""


def registered_run(checkpoint: str, tracking: TrackingConfig) -> str:
    """The id of the run whose registered model has that checkpoint, wherever it was copied; empty without an answer."""
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    try:
        found = open_client(tracking_uri(tracking)).search_model_versions(f"tags.checkpoint = '{checkpoint}'")
    except MlflowException:
        return ""
    return str(found[0].run_id or "") if found else ""


def _version(client: "MlflowClient", name: str) -> "ModelVersion":
    """Of NAME@ALIAS or NAME/VERSION."""
    if "@" in name:
        return client.get_model_version_by_alias(*name.split("@", 1))
    if "/" not in name:
        raise _no_model(f"{_MODELS}{name}", "neither an alias nor a version")
    return client.get_model_version(*name.rsplit("/", 1))


def _of_a_run(run: str, server: str) -> str:
    # Here and not above: mlflow takes seconds to import.
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    run_id, _, path = run.removeprefix(_RUNS).partition("/")
    try:
        client = open_client(server)
        told = client.get_run(run_id)
        path = path or told.data.tags.get(BEST, "")
        if not path or path not in {item.path for item in client.list_artifacts(run_id, str(Path(path).parent))}:
            raise _no_checkpoint(run, f"{path or 'no best one'} in {server}")
        uri = f"{told.info.artifact_uri}/{path}"
        return str(_kept(uri, server, run_id)) if server.startswith("http") else _downloaded(uri, server)
    except (MlflowException, OSError) as error:
        found = str(error).splitlines()[0]
        if isinstance(error, MlflowException) and error.error_code in NO_SUCH:
            raise _no_checkpoint(run, found) from error
        raise AwayError(f"{server} does not say what {run} is", found=found, mend=AWAY) from error


def _no_checkpoint(run: str, found: str) -> FewcastError:
    return FewcastError(
        f"there is no checkpoint {run}",
        found=found,
        mend="name a run by its id, or one of its checkpoints as runs:/ID/checkpoints/step_..., as its page shows it",
    )


def _no_model(run: str, found: str) -> FewcastError:
    return FewcastError(
        f"there is no model {run}",
        found=found,
        mend="train a model and run the deployment `promote`, or set forecast.run to a training run's folder"
        if "@" in run
        else "name one as models:/NAME/VERSION, as the registry's page shows it",
    )


def _kept(uri: str, server: str, name: str) -> Path:
    """The files of a version in a place of ours, fetched unless they are there; they appear whole or not at all.

    The trap: without a place of ours MLflow makes a temporary copy each time, and deletes none.
    """
    place = KEPT / name / sha256(f"{server} {uri}".encode()).hexdigest()[:16]
    if not _used(place):
        beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        with _alone():
            beside.mkdir(parents=True)
        found = Path(_downloaded(uri, server, beside))
        os.utime(found)  # a copy has the time of its original
        try:
            found.rename(place)
        except OSError:
            if not _used(place):  # or another run was quicker
                raise
        shutil.rmtree(beside, ignore_errors=True)
        with suppress(OSError):
            _clear_unused()
    return place


def _used(place: Path) -> bool:
    """Whether it is there; it then counts as used just now."""
    if place.exists():
        with suppress(FileNotFoundError), _alone():  # deleted a moment ago
            os.utime(place)
            return True
    return False


def _clear_unused() -> None:
    """Delete the versions that nobody has asked for in a month, and the names that stood for them."""
    oldest = time.time() - UNUSED_SECONDS
    doomed = []
    with _alone():
        for folder in [path for path in KEPT.iterdir() if path.is_dir() and not path.is_symlink()]:
            ours = [path for path in folder.iterdir() if FETCHED.fullmatch(path.name)]
            for place in [path for path in ours if path.stat().st_mtime < oldest]:
                # Renamed first: killed here, it leaves nothing that passes for a version.
                doomed.append(place.rename(place.with_name(f".{place.name}.{os.getpid()}.partial")))
    for place in doomed:
        shutil.rmtree(place, ignore_errors=True)
    with _alone():
        for folder in {place.parent for place in doomed}:
            if not any(folder.iterdir()):
                folder.rmdir()
        for link in [path for path in KEPT.iterdir() if path.is_symlink() and not path.exists()]:
            link.unlink()


@contextmanager
def _alone() -> Iterator[None]:
    """Nobody else asks for a version, or deletes one, meanwhile."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _downloaded(uri: str, server: str, place: Path | None = None) -> str:
    from mlflow import artifacts

    path: str = artifacts.download_artifacts(uri, tracking_uri=server, dst_path=str(place) if place else None)
    return path
