"""From candidate to champion."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.config import TrackingConfig
from tasks.policies import NETWORK
from tasks.reporting import Reporting


@task(name="promote", **NETWORK)
def promote(tracking: TrackingConfig) -> str:
    """Apply the rule of promotion and say what came of it."""
    from tasks.tracking import registry  # mlflow takes seconds to import

    with Reporting("promote") as report:
        verdict = registry.promote(tracking, report)
        report.message(verdict)
    create_markdown_artifact(verdict, key="promotion")
    return verdict
