"""Prior and held-out episodes to a scorecard."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.config import EvaluateConfig, TrackingConfig
from core.verify.evaluate import Scorecard
from core.verify.evaluate import evaluate as evaluate_run
from tasks.policies import LOCAL, dask_client
from tasks.reporting import Reporting
from tasks.tracking import TrackedRun, start_afresh
from tasks.train import tracking_folder


@task(name="evaluate", **LOCAL)
def evaluate(config: EvaluateConfig, tracking: TrackingConfig) -> Scorecard:
    """Score the run against the baselines on the held-out episodes."""
    folder = Path(config.scorecard) / "tracking"
    start_afresh(folder)
    with (
        TrackedRun(folder, tracking, "evaluate", config, parent=tracking_folder(config.run)) as tracked,
        Reporting("evaluate", tracked) as report,
        dask_client() as client,
    ):
        scorecard = evaluate_run(config, report=report, client=client)
        for path in (scorecard.parquet, *scorecard.figures):
            tracked.artifact(Path(path), "scorecard")
    create_markdown_artifact(f"{scorecard.markdown}\n\nMLflow: {tracked.address}\n", key="scorecard")
    return scorecard
