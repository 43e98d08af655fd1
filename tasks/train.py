"""Episodes to prior."""

from pathlib import Path

from prefect import task

from core.config import TrackingConfig, TrainConfig
from core.train import TrainSummary
from core.train import train as train_learner
from tasks.policies import LOCAL
from tasks.reporting import Reporting
from tasks.stopping import run_until_stopped
from tasks.summary import publish
from tasks.tracking import TrackedRun


def tracking_folder(run: str) -> Path:
    """Where a training run keeps its own record for MLflow, and the id of its MLflow run."""
    return Path(run) / "tracking"


@task(name="train", tags=["gpu"], **LOCAL)
def train(config: TrainConfig, tracking: TrackingConfig) -> TrainSummary:
    """Meta-train from the last good checkpoint until the steps or the budget are spent, or a signal comes."""
    name = f"train {config.learner}"
    with (
        TrackedRun(tracking_folder(config.run), tracking, name, config) as tracked,
        Reporting("train", tracked) as report,
    ):
        summary = run_until_stopped(lambda stop: train_learner(config, report=report, stop=stop))
        report.message(describe(summary))
        if summary.best_step is not None:
            tracked.artifact(Path(summary.run) / f"step_{summary.best_step:08d}", "checkpoint")
    publish("train", summary, mlflow=tracked.address)
    return summary


def describe(summary: TrainSummary) -> str:
    """Where the training stands, in a line."""
    best = ""
    if summary.best_step is not None:
        best = f"; best CRPS {summary.best['crps']:.4f} at step {summary.best_step}"
    if summary.finished and not summary.steps_per_second:
        return f"skipped: finished at step {summary.step} by {summary.ended}{best}"
    return f"{summary.step} steps, ended by {summary.ended}{best}; checkpoints {summary.run}"
