"""An archive under the eye."""

from datetime import UTC, datetime, timedelta

import numpy as np
from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.archive import Archive, validate
from core.archive.layout import Status
from core.archive.matching import require
from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.ingest.plan import last_complete, slots_of
from core.satellite import source
from tasks.policies import LOCAL
from tasks.reporting import Reporting


@task(name="check-archive", **LOCAL)
def check_archive(url: str) -> str:
    """Validate an archive; `FewcastError` names the first problem, the run's artifact all of them."""
    with Reporting("archive") as report:
        found = validate(url, report=report)
    create_markdown_artifact(found.markdown, key="archive-check")
    if found.problems:
        raise FewcastError(
            f"the archive {url} has {len(found.problems)} problems",
            found=str(found.problems[0]),
            mend=f"run `fewcast archive repair {url}`",
        )
    return url


@task(name="check-fresh", **LOCAL)
def check_fresh(config: IngestConfig, limit_minutes: int) -> str:
    """Say how old the newest complete frame is, and what is known of the slots since; fails beyond the limit."""
    now = datetime.now(UTC)
    archive = Archive.open(config.archive)
    kinds = {name: source.kind(config, name) for name in config.channels}
    require(archive, channels=kinds, origin=config.origin, cadence_minutes=config.cadence_minutes)
    newest = last_complete(archive, config, now)
    limit, begin = timedelta(minutes=limit_minutes), newest + timedelta(minutes=1) if newest else config.origin
    slots = slots_of(archive, config, TimeRange(start=begin, end=now)) if begin < now else []
    columns = [archive.channels.index(name) for name in config.channels]
    known = archive.status_of(slots)[:, columns] if slots else np.zeros(0)
    counts = {status.name.lower(): int((known == status).sum()) for status in Status}
    since = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none due"
    text = f"{config.archive}: newest complete frame {newest or 'none'}; frames since then: {since}"
    with Reporting("archive") as report:
        report.message(text)
    create_markdown_artifact(text, key="archive-alarm")
    if newest is None or now - newest > limit:
        raise FewcastError(
            f"the archive {config.archive} is stale",
            found=f"newest complete frame {newest or 'none'}, limit {limit}; frames since then: {since}",
            mend="see the newest run of the ingest; unseen: the source is silent or out of reach; corrupt: spoilt",
        )
    return text
