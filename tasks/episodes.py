"""Archive to episodes."""

from prefect import task

from core.config import EpisodesConfig
from core.episodes import StoreSummary, build
from tasks.policies import LOCAL, dask_client
from tasks.reporting import Reporting
from tasks.summary import counts, publish


@task(name="episodes", **LOCAL)
def episodes(config: EpisodesConfig) -> StoreSummary:
    """Sample contexts and write the episodes that the store does not have yet."""
    with Reporting("episodes") as report, dask_client() as client:
        summary = build(config, report=report, client=client)
        report.message(f"episodes: {counts(built=summary.built, skipped=summary.skipped)}; store {summary.url}")
    publish("episodes", summary)
    return summary
