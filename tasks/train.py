"""Episodes to prior."""

import time
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from core.config import TrackingConfig, TrainConfig
from core.meta import checkpoint
from core.report import Report
from core.training.renewal import renewed
from core.training.run import ended_by
from core.training.train import TrainSummary
from core.training.train import train as train_learner
from tasks.curve import Curve
from tasks.policies import GPU, NETWORK, SEGMENT
from tasks.records import origin, tell_checkpoints, tell_data, tell_result, tracking_folder
from tasks.reporting import Reporting
from tasks.stopping import run_until_stopped
from tasks.summary import publish
from tasks.tracking import TrackedRun, is_finished, is_in_mlflow, local_run, run_page, tracking_uri


@task(name="renew", **NETWORK)
def renew(config: TrainConfig, tracking: TrackingConfig) -> TrainConfig:
    """The config of the training that is due (see `core.training.renewal.renewed`), from the registry's champion."""
    from tasks.tracking import registry  # mlflow takes seconds to import

    with Reporting("train") as report:
        return renewed(config, lambda: registry.champion_run(tracking, report), datetime.now(UTC), report=report)


@task(name="train", task_run_name="train {config.learner}", tags=[GPU], **SEGMENT)
def train(config: TrainConfig, tracking: TrackingConfig, segment_steps: int = 0) -> TrainSummary:
    """Train one segment from the last good checkpoint on: so many steps, or (0) all that are left."""
    if is_done(config, tracking):  # telling it again would rewrite what made it
        with Reporting("train") as report:
            summary = go_on(config, tracking, report, segment_steps)
            report.message(describe(summary))
    else:
        summary = train_tracked(config, tracking, segment_steps)
    publish("train", summary, mlflow=run_page(tracking_folder(config.run)))
    return summary


def is_done(config: TrainConfig, tracking: TrackingConfig) -> bool:
    """Whether the run has ended and its MLflow server knows all of it."""
    if not is_finished(tracking_folder(config.run), tracking_uri(tracking)):
        return False
    found = checkpoint.load_latest(Path(config.run))
    return found is not None and bool(ended_by(config, found))


def train_tracked(config: TrainConfig, tracking: TrackingConfig, segment_steps: int) -> TrainSummary:
    """One segment, of which MLflow is told."""
    begun = time.monotonic()
    parent = Path(tracking.parent) if tracking.parent else None
    name, folder = f"train {config.learner}", tracking_folder(config.run)
    with (
        TrackedRun(folder, tracking, name, config, parent=parent, tags=origin(config, tracking)) as tracked,
        Reporting("train", tracked, Curve(tracked.history())) as report,
    ):
        tell_data(tracked, config)
        ended = True
        try:
            summary = go_on(config, tracking, report, segment_steps)
            ended = summary.finished
        finally:
            tell_checkpoints(tracked, config, ended=ended)
        tell_result(tracked, config, summary)
        report.message(describe(summary))
        around = time.monotonic() - begun - sum(summary.seconds.values())
        report.metrics({"time/segment_orchestration_seconds": around}, summary.step)
        if not summary.finished:
            tracked.goes_on()
    return summary


def go_on(config: TrainConfig, tracking: TrackingConfig, report: Report, segment_steps: int) -> TrainSummary:
    """One segment, which a signal ends with a checkpoint."""
    here = located(config, tracking, report)
    return run_until_stopped(lambda stop: train_learner(here, report=report, stop=stop, segment=segment_steps))


def located(config: TrainConfig, tracking: TrackingConfig, report: Report | None = None) -> TrainConfig:
    """The config with what it forks from on this machine; a run that has begun keeps to what it began from."""
    if not is_in_mlflow(config.fork):
        return config
    begun = checkpoint.load_latest(Path(config.run))
    fork = begun.meta["config"]["fork"] if begun else local_run(config.fork, tracking, report)
    return config.model_copy(update={"fork": fork})


def describe(summary: TrainSummary) -> str:
    """Where the training stands, in a line."""
    best = ""
    if summary.best_step is not None:
        best = f"; best CRPS {summary.best['crps']:.4f} at step {summary.best_step}"
    if summary.finished and not summary.steps_per_second:
        return f"skipped: finished at step {summary.step} by {summary.ended}{best}"
    return f"{summary.step} steps, ended by {summary.ended}{best}; checkpoints {summary.run}"
