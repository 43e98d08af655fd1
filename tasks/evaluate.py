"""Prior and held-out episodes to a scorecard."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.config import EvaluateConfig, TrackingConfig
from core.report import Report
from core.verify.evaluate import evaluate as evaluate_run
from core.verify.folder import INPUTS, Scorecard, files_of
from core.verify.tables import leads_of
from tasks.pictures import last_frames, publish_file
from tasks.policies import GPU, LOCAL, dask_client
from tasks.records import tracking_folder
from tasks.reporting import Reporting
from tasks.tracking import TrackedRun, is_delivered, local_run, run_page, start_afresh, training_run


@task(name="evaluate", tags=[GPU], **LOCAL)
def evaluate(config: EvaluateConfig, tracking: TrackingConfig) -> Scorecard:
    """Score the run against the baselines on the held-out episodes."""
    with Reporting("evaluate") as report, dask_client() as client:
        own, names = with_local_runs(config, tracking, report)
        scorecard = evaluate_run(own, names, report=report, client=client)
    address = remember(scorecard, config, tracking)
    for figure in scorecard.figures[:4]:
        publish_file(f"scorecard-{figure.stem}".replace("_", "-"), figure, figure.stem)
    create_markdown_artifact(
        f"{scorecard.markdown}\n\nScorecard: {scorecard.url}\n\nMLflow: {address}\n", key="scorecard"
    )
    return scorecard


def with_local_runs(
    config: EvaluateConfig, tracking: TrackingConfig, report: Report
) -> tuple[EvaluateConfig, dict[str, str]]:
    """The config with registered models as files of this machine, and what each such file was called in it."""
    asked = dict.fromkeys([config.run, *config.more_runs, *config.deep_ensemble])
    places = {run: local_run(run, tracking, report) for run in asked}
    local = {
        "run": places[config.run],
        "more_runs": [places[run] for run in config.more_runs],
        "deep_ensemble": [places[run] for run in config.deep_ensemble],
    }
    return config.model_copy(update=local), {place: run for run, place in places.items()}


def remember(scorecard: Scorecard, config: EvaluateConfig, tracking: TrackingConfig) -> str:
    """Put a new scorecard into MLflow as a child of its training run, once; returns the way to its page."""
    folder = scorecard.folder / "tracking"
    if is_of_another(folder, scorecard):
        start_afresh(folder)
    if not is_delivered(folder):
        name, parent = f"evaluate {config.split}", tracking_folder(config.run)
        above = training_run(config.run, tracking)  # of a registered model, which has no folder here
        tags = {"mlflow.parentRunId": above} if above else {}
        with TrackedRun(folder, tracking, name, config, parent=parent, tags=tags) as tracked:
            tell(tracked, scorecard)
    return run_page(folder)


def is_of_another(folder: Path, scorecard: Scorecard) -> bool:
    """Whether the record in `folder` is of an earlier scorecard: begun before this one was finished."""
    journal = folder / "journal.jsonl"
    return journal.exists() and journal.stat().st_mtime_ns < (scorecard.folder / INPUTS).stat().st_mtime_ns


def tell(tracked: TrackedRun, scorecard: Scorecard) -> None:
    """All of a scorecard: metrics, tables, plots, files, and the sample forecasts, of which a step is a lead time."""
    for step, values in curves(scorecard).items():
        tracked.metrics(values, step)
    for name in ("scorecard", "cuts"):
        tracked.table(scorecard.folder / f"{name}.parquet", f"{name}.json")
    for path in files_of(scorecard.folder):
        tracked.artifact(path, "figures" if path.suffix == ".png" else "scorecard")
    leads = leads_of(scorecard.table)
    for path in scorecard.moving:
        for lead, picture in zip(leads, last_frames(path, len(leads)), strict=True):
            tracked.image(path.stem.removeprefix("moving-"), picture, lead)


def curves(scorecard: Scorecard) -> dict[int, dict[str, float]]:
    """Metrics by lead time in minutes, as steps, so that MLflow draws them against it: `crps/test_both/abml, M = 3`.

    Step 0 has the value over all lead times.
    """
    table = scorecard.table
    channel = "all" if (table["channel"] == "all").any() else table["channel"].iloc[0]
    table = table[(table["channel"] == channel) & (table["reference"] == "")].sort_values("lead_time")
    found: dict[int, dict[str, float]] = {}
    for row in table.to_dict("records"):
        split = f"{row['split']}_{row['holdout']}".removesuffix("_")
        found.setdefault(int(row["lead_time"]), {})[f"{row['metric']}/{split}/{row['learner']}"] = float(row["value"])
    return found
