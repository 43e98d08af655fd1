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
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType

from core.config import MonitorConfig
from core.monitoring import write_metrics
from tasks.listing import everything
from tasks.policies import LOCAL
from tasks.reporting import Reporting

BY_A_RULE = "Cancelled by Automation"  # Prefect's words, before the automation's id


@task(name="monitor", **LOCAL)
def monitor(config: MonitorConfig) -> str:
    """Measure, and write the file; it is the run's artifact too."""
    now = datetime.now(UTC)
    with Reporting("monitor") as report:
        failed = failed_runs(config.name, now - timedelta(hours=config.window_hours))
        path = write_metrics(config, failed, now, report)
        report.message(f"metrics {path}")
    with open(path) as file:
        create_markdown_artifact(f"`{path}`\n\n```\n{file.read()}```\n", key="metrics")
    return path


def failed_runs(preset: str, since: datetime) -> dict[str, int]:
    """Failed runs of a preset's deployments since a moment, by flow; flows without one count 0.

    Failed, crashed, or cancelled by a rule of the server at their time limit; what a person cancels has not failed.
    """
    names = DeploymentFilterName(any_=[preset, f"{preset}-latest", f"{preset}-backfill"])
    deployments, ended = DeploymentFilter(name=names), FlowRunFilterEndTime(after_=since)
    begun = FlowRunFilterStartTime(is_null_=False)  # one that came too early was cancelled before that
    died = FlowRunFilter(state=_of(StateType.FAILED, StateType.CRASHED), end_time=ended)
    cancelled = FlowRunFilter(state=_of(StateType.CANCELLED), end_time=ended, start_time=begun)
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in everything(client.read_flows)}
        runs = everything(client.read_flow_runs, flow_run_filter=died, deployment_filter=deployments)
        for run in everything(client.read_flow_runs, flow_run_filter=cancelled, deployment_filter=deployments):
            # Its last state says no more than that it was cancelled; the one before, who asked for it.
            if any((state.message or "").startswith(BY_A_RULE) for state in client.read_flow_run_states(run.id)):
                runs.append(run)
    counts = Counter(flows.get(run.flow_id, "other") for run in runs)
    return {name: counts[name] for name in sorted({*flows.values(), *counts})}


def _of(*states: StateType) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=[*states]))
