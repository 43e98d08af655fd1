"""The metrics file, with what Prefect knows of failed runs."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from core.config import MonitorConfig
from core.monitoring import write_metrics
from tasks.listing import everything
from tasks.policies import LOCAL
from tasks.reporting import Reporting


@task(name="monitor", **LOCAL)
def monitor(config: MonitorConfig) -> str:
    """Measure, and write the file; it is the run's artifact too."""
    now = datetime.now(UTC)
    with Reporting("monitor") as report:
        path = write_metrics(config, failed_runs(config.name, now - timedelta(hours=config.window_hours)), now)
        report.message(f"metrics {path}")
    with open(path) as file:
        create_markdown_artifact(f"`{path}`\n\n```\n{file.read()}```\n", key="metrics")
    return path


def failed_runs(preset: str, since: datetime) -> dict[str, int]:
    """Failed and crashed runs of a preset's deployments since a moment, by flow; flows without one count 0."""
    names = DeploymentFilterName(any_=[preset, f"{preset}-latest", f"{preset}-backfill"])
    failed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED]))
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in everything(client.read_flows)}
        runs = everything(
            client.read_flow_runs,
            flow_run_filter=FlowRunFilter(state=failed, end_time=FlowRunFilterEndTime(after_=since)),
            deployment_filter=DeploymentFilter(name=names),
        )
    counts = Counter(flows.get(run.flow_id, "other") for run in runs)
    return {name: counts[name] for name in sorted({*flows.values(), *counts})}
