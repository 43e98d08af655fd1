"""Satellite granules to archive."""

from datetime import UTC, datetime, timedelta

from prefect import flow

from core.config import IngestConfig, TimeRange
from core.ingest import IngestSummary
from tasks import ingest as tasks


@flow(name="ingest", flow_run_name="ingest {config.system}")
def ingest(config: IngestConfig) -> IngestSummary:
    """Bring a satellite's granules into the archive; run it again at any time, it adds what is new.

    Args:
        config: Which granules, and which archive.
    """
    if config.simulator.enabled:
        tasks.simulate(config)
    return tasks.ingest(config)


@flow(name="ingest-latest", flow_run_name="ingest {config.system}, latest")
def ingest_latest(config: IngestConfig, hours: int = 3) -> IngestSummary:
    """Ingest the newest slots, whatever the times in the config: for a schedule.

    Args:
        config: Which granules, and which archive; its times are replaced.
        hours: How far back to look for late granules, in hours.
    """
    now = datetime.now(UTC)
    return ingest(config.model_copy(update={"times": TimeRange(start=now - timedelta(hours=hours), end=now)}))
