"""The state of archive, forecasts and runs, for a monitoring system."""

from prefect import flow

from core.config import MonitorConfig
from tasks import monitor as tasks


@flow(name="monitor")
def monitor(config: MonitorConfig) -> str:
    """Write the metrics file that a textfile collector reads: freshness, lag, gaps, failures, skill.

    Args:
        config: What to look at, where to write, and the span that things are counted over.
    """
    return tasks.monitor(config)
