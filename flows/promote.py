"""From candidate to champion."""

from prefect import flow

from core.config import TrackingConfig
from tasks import promote as tasks


@flow(name="promote")
def promote(tracking: TrackingConfig) -> str:
    """Make the newest candidate the champion, if by validation it is the better forecaster; says why or why not.

    Args:
        tracking: The MLflow server and the experiment, whose name the model bears.
    """
    return tasks.promote(tracking)
