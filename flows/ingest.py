"""Satellite granules to archive."""

from prefect import flow

from core.config import IngestConfig
from core.ingest import IngestSummary
from tasks import ingest as tasks


@flow(name="ingest", flow_run_name="ingest {config.system} {config.mode}")
def ingest(config: IngestConfig) -> IngestSummary:
    """Bring a satellite's granules into the archive; run it again at any time, it adds what is new.

    Args:
        config: Which granules, which archive, and whether old or new slots are wanted.
    """
    if config.simulator.enabled:
        tasks.simulate(config)
    return tasks.ingest(config)
