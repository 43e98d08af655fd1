"""What the server does by itself: chain deployments, end what hangs, cure what died, and tell what is late."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CancelFlowRun, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture

from deployments.catalogue import Entry
from flows.embedded import HEARTBEAT_SECONDS
from tasks.events import ARCHIVE_ADVANCED, ARCHIVE_GREW, archive_resource
from tasks.listing import everything

ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
# A notification block of this name, of whatever kind (Slack, mail, a webhook), is told of every alarm.
ALERTS = "fewcast-alerts"
OURS = "fewcast: "  # what the names of these automations begin with


def zombies(missed: int = 3, beat: int = HEARTBEAT_SECONDS) -> Automation:
    """A run whose process is gone sends no heartbeat, every `beat` seconds: call it crashed, or it runs for ever."""
    return Automation(
        name=OURS + "runs without a heartbeat are crashed",
        description=f"Missed {missed} heartbeats of {beat} s: the process is gone. Stages go on where they were.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ENDED},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=missed * beat),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process is gone")],
    )


def stuck(limit: timedelta = timedelta(minutes=10)) -> Automation:
    """A run that a worker took and never began would be Pending for ever: its worker is gone."""
    return Automation(
        name=OURS + "runs that never begin are crashed",
        description=f"Taken by a worker {limit} ago, and not begun: the worker is gone. The next run does the work.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Pending"},
            expect={"prefect.flow-run.Running", *ENDED},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=limit,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="never begun: its worker is gone")],
    )


def overdue(limit: timedelta, tag: str) -> Automation:
    """A run that bears the tag of a time limit, and has not ended by then, is cancelled by its worker."""
    return Automation(
        name=f"{OURS}runs tagged {tag} are cancelled after it",
        description="It hangs, or its work has grown: see docs/operations.md. What it had done is kept.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Running"},
            expect=ENDED,
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            match_related={"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=limit,
        ),
        actions=[CancelFlowRun()],
    )


def chained(after: Entry, then: Entry, ids: Mapping[str, UUID]) -> Automation:
    """One deployment after every completed run of another."""
    return Automation(
        name=f"{OURS}{then.path} after {after.path}",
        description=f"A completed run of {after.path} starts {then.path}.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Completed"},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            match_related={
                "prefect.resource.id": f"prefect.deployment.{ids[after.path]}",
                "prefect.resource.role": "deployment",
            },
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[RunDeployment(source="selected", deployment_id=ids[then.path])],
    )


def after_growth(archive: str, then: Entry, ids: Mapping[str, UUID]) -> Automation:
    """One deployment whenever frames have come into an archive."""
    return Automation(
        name=f"{OURS}{then.path} when frames have come",
        description=f"New frames in {archive} start {then.path}.",
        trigger=EventTrigger(
            expect={ARCHIVE_GREW},
            match={"prefect.resource.id": [archive_resource(archive)]},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[RunDeployment(source="selected", deployment_id=ids[then.path])],
    )


def stale(archive: str, limit: timedelta, check: Entry, ids: Mapping[str, UUID], block: UUID | None) -> Automation:
    """No complete slot for too long: a run says in red since when, and why, and `ALERTS`, if there is one, is told."""
    actions: list[ActionTypes] = [RunDeployment(source="selected", deployment_id=ids[check.path])]
    if block:
        body = f"No slot of {archive} has become complete for {limit}. See the newest run of {check.path}."
        actions.append(SendNotification(block_document_id=block, subject="fewcast: a stale archive", body=body))
    return Automation(
        name=f"{OURS}alarm when {archive} is stale",
        description=f"No complete slot for {limit}: {check.path} says since when, and why.",
        trigger=EventTrigger(
            expect={ARCHIVE_ADVANCED},
            match={"prefect.resource.id": [archive_resource(archive)]},
            posture=Posture.Proactive,
            threshold=1,
            within=limit,
        ),
        actions=actions,
    )


def automations(entries: Iterable[Entry], ids: Mapping[str, UUID], block: UUID | None = None) -> list[Automation]:
    """All of what some deployments ask for, given the server's ids of them by `flow/name`."""
    entries = list(entries)
    by_path = {entry.path: entry for entry in entries}
    made = [zombies(), stuck()]
    made += [overdue(limit, tag) for tag, limit in sorted({entry.limit_tag: entry.limit for entry in entries}.items())]
    for entry in entries:
        if entry.after:
            made.append(chained(by_path[entry.after], entry, ids))
        if entry.on_growth_of:
            made.append(after_growth(entry.on_growth_of, entry, ids))
        if entry.on_silence_of:
            made.append(stale(entry.on_silence_of, entry.silence, entry, ids, block))
    return made


def apply_automations(made: Iterable[Automation]) -> list[Automation]:
    """Make those that are not there, change those that are another, and leave off what is disabled; returns all."""
    made = list(made)
    for automation in made:
        found = _find(automation.name)
        if found is None:
            automation.create()
            continue
        automation.enabled = found.enabled
        if _plain(found) != _plain(automation):
            automation.id = found.id
            automation.update()
    return made


def find_alerts() -> UUID | None:
    """The operator's notification block, if there is one."""
    with get_client(sync_client=True) as client:
        for document in everything(client.read_block_documents):
            if document.name == ALERTS:
                return document.id
    return None


def _plain(automation: Automation) -> dict[str, object]:
    return automation.model_dump(mode="json", include={"name", "description", "trigger", "actions", "enabled"},
                                 exclude={"trigger": {"id"}})  # fmt: skip


def _find(name: str) -> Automation | None:
    try:
        found = Automation.read(name=name)
        return found if isinstance(found, Automation) else None
    except ValueError:
        return None
