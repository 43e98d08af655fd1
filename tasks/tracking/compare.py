"""What differs between two runs, and by how much."""

from collections.abc import Iterator
from pathlib import Path

from core.config import TrackingConfig
from core.errors import AwayError, FewcastError
from tasks.tracking.journal import read_delivered
from tasks.tracking.local import AWAY, NO_SUCH
from tasks.tracking.uri import tracking_uri

_NOT_OF_INTEREST = ("mlflow.", "prefect.")
_CODE = "mlflow.source.git.commit"


def compare(first: str, second: str, tracking: TrackingConfig) -> Iterator[tuple[str, str, str, str]]:
    """Rows (what, first, second, difference) of the parameters, data, code and metrics that differ.

    Of metrics it is the last values, and of training the best ones first. A run is named by its MLflow id, or by its
    directory, which knows the server that has it unless the config names one. Raises `FewcastError` for a run that is
    not there, `AwayError` where nothing answers.
    """
    from mlflow.exceptions import MlflowException

    from tasks.tracking.server import open_client

    runs = []
    for name in (first, second):
        delivered = read_delivered(Path(name) / "tracking")
        uri = tracking.uri or delivered.uri or tracking_uri(tracking)
        try:
            runs.append(open_client(uri).get_run(delivered.run_id or name))
        except (MlflowException, OSError) as error:
            found = str(error).splitlines()[0]
            if not isinstance(error, MlflowException) or error.error_code not in NO_SUCH:
                raise AwayError(f"{uri} does not say what the run {name} is", found=found, mend=AWAY) from error
            raise FewcastError(
                f"MLflow at {uri} has no run {name}",
                found=found,
                mend="give a run id as the MLflow page shows it, or the run's directory",
            ) from error
    a, b = runs
    tags = [
        {k: v for k, v in run.data.tags.items() if k == _CODE or not k.startswith(_NOT_OF_INTEREST)} for run in runs
    ]
    seen = [run.inputs.dataset_inputs if run.inputs else [] for run in runs]
    data = [{f"data {item.dataset.name}": item.dataset.digest for item in items} for items in seen]
    for left, right in ((a.data.params, b.data.params), data, tags):
        for key in sorted({*left, *right}):
            if left.get(key) != right.get(key):
                yield key, left.get(key, "-"), right.get(key, "-"), ""
    metrics = {key for key in {*a.data.metrics, *b.data.metrics} if not key.startswith("system/")}
    for key in sorted(
        metrics, key=lambda name: (not name.startswith("best/"), not name.startswith("validation/"), name)
    ):
        was, now = a.data.metrics.get(key), b.data.metrics.get(key)
        if was is None or now is None:
            yield key, _number(was), _number(now), ""
        elif was != now:
            share = f" ({(now - was) / abs(was):+.1%})" if was else ""
            yield key, _number(was), _number(now), f"{now - was:+.4g}{share}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
