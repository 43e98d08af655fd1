"""Granules to archive."""

from contextlib import ExitStack
from datetime import UTC, datetime

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.archive import Archive, inspect, quick_look
from core.config import IngestConfig
from core.ingest import IngestSummary
from core.ingest import ingest as ingest_granules
from core.ingest.plan import last_complete
from tasks.events import archive_advanced, archive_grew
from tasks.pictures import publish_figure
from tasks.policies import LOCAL, NETWORK, dask_client
from tasks.reporting import Reporting
from tasks.summary import counts, publish

FRAMES = ("written", "partial", "skipped", "corrupt", "absent", "unavailable")


@task(name="simulate", **LOCAL)
def simulate(config: IngestConfig) -> str:
    """Write the simulated satellite's granules into the source, where the preset asks for it."""
    from core.satellite import simulator  # an idle run of a real satellite has no use for it

    with Reporting("simulate") as report:
        simulator.simulate(config, report=report)
    return config.source


@task(name="ingest", **NETWORK)
def ingest(config: IngestConfig) -> IngestSummary:
    """List, fetch, check and write what the archive does not have yet."""
    with Reporting("ingest") as report, ExitStack() as stack:
        before = _newest(config)
        summary = ingest_granules(config, report=report, connect=lambda: stack.enter_context(dask_client()))
        states = {name: getattr(summary, name) for name in FRAMES}
        report.message(f"frames: {counts(**states)}; archive {summary.archive}")
    publish("ingest", summary)
    if summary.written:
        archive_grew(summary.archive, summary.written)
        newest = _newest(config)
        if newest and (before is None or newest > before):
            archive_advanced(summary.archive, newest)
    if config.mode != "latest" or summary.written:  # a run every few minutes draws nothing where nothing has come
        create_markdown_artifact(inspect(summary.archive, last_days=14).markdown, key="archive")
        publish_figure("archive-frame", quick_look(summary.archive), "The newest frame of the archive")
    return summary


def _newest(config: IngestConfig) -> datetime | None:
    """The newest slot that is complete, if there is one yet."""
    if not Archive.exists(config.archive):
        return None
    return last_complete(Archive.open(config.archive), config, datetime.now(UTC))
