"""What the server does by itself."""

from datetime import timedelta

from prefect.automations import Automation
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

_ENDED = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]


def zombies(missed: int = 3) -> Automation:
    """A run whose process is gone sends no heartbeat, and would be Running for ever: call it crashed."""
    beat = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 180
    return Automation(
        name="fewcast: runs without a heartbeat are crashed",
        description=f"Missed {missed} heartbeats of {beat} s: the process is gone. Stages go on where they were.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *_ENDED},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=missed * beat),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="no heartbeat: its process is gone")],
    )


def apply_automations() -> list[str]:
    """Make the automations that are not there; returns the names of all."""
    made = [zombies()]
    for automation in made:
        if _find(automation.name) is None:
            automation.create()
    return [automation.name for automation in made]


def _find(name: str) -> Automation | None:
    try:
        found = Automation.read(name=name)
        return found if isinstance(found, Automation) else None
    except ValueError:
        return None
