"""What a run tells the server has happened, so that automations can act on it."""

from datetime import datetime
from hashlib import sha256
from typing import Any

from prefect.events import emit_event

ARCHIVE_GREW = "fewcast.archive.grew"
ARCHIVE_ADVANCED = "fewcast.archive.advanced"


def archive_resource(url: str) -> str:
    """The archive's name in events: a digest, since an address may hold what a name may not."""
    return f"fewcast.archive.{sha256(url.encode()).hexdigest()[:16]}"


def archive_grew(url: str, frames: int) -> None:
    """Say that frames came into an archive, new or late; it does not wait for the server to hear it."""
    _tell(ARCHIVE_GREW, url, {"frames": frames})


def archive_advanced(url: str, newest: datetime) -> None:
    """Say that an archive's newest slot with all channels is a later one: a lone channel or a late frame is no sign."""
    _tell(ARCHIVE_ADVANCED, url, {"newest": newest.isoformat()})


def _tell(event: str, url: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": archive_resource(url), "prefect.resource.name": url}
    emit_event(event, resource=resource, payload=payload)
