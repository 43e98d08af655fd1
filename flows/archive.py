"""An archive under the eye: every frame against its checksums, and the newest against the clock."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from core.config import IngestConfig
from tasks import archive as tasks


@flow(name="archive-check")
def check_archive(url: Annotated[str, Field(min_length=1)]) -> str:
    """Read every frame of an archive and compare it with its checksums; fails where something is wrong.

    Args:
        url: Folder or URL of the archive.
    """
    return tasks.check_archive(url)


@flow(name="archive-alarm")
def check_fresh(config: IngestConfig, limit_minutes: Annotated[int, Field(ge=1, le=100_000)] = 40) -> str:
    """Say how old the newest complete frame is; fails where it is older than the limit.

    Args:
        config: Which archive, and what feeds it.
        limit_minutes: The age in minutes from which on an archive is stale. From 1 to 100000.
    """
    return tasks.check_fresh(config, limit_minutes)
