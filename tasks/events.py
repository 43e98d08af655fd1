"""What a run tells the server has happened, so that automations can act on it."""

from hashlib import sha256
from typing import Any

from prefect.events import emit_event

ARCHIVE_GREW = "fewcast.archive.grew"


def archive_resource(url: str) -> str:
    """The archive's name in events: a digest, since an address may hold what a name may not."""
    return f"fewcast.archive.{sha256(url.encode()).hexdigest()[:16]}"


def archive_grew(url: str, frames: int) -> None:
    """Say that frames came into an archive; it does not wait for the server to hear it."""
    resource: dict[str, Any] = {"prefect.resource.id": archive_resource(url), "prefect.resource.name": url}
    emit_event(ARCHIVE_GREW, resource=resource, payload={"frames": frames})
