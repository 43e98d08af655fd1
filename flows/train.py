"""Episodes to prior."""

from collections import Counter
from dataclasses import replace
from typing import Annotated

from prefect import flow
from pydantic import Field

from core.config import TrackingConfig, TrainConfig
from core.training.renewal import point_to_latest
from core.training.train import TrainSummary
from tasks import train as tasks

# Long enough that opening and closing a task costs nothing beside it, short enough that a retry repeats little.
SEGMENT_STEPS = 2000


@flow(name="train", flow_run_name="train {config.learner}")
def train(
    config: TrainConfig,
    tracking: TrackingConfig,
    segment_steps: Annotated[int, Field(ge=0, le=1_000_000)] = SEGMENT_STEPS,
    renew: bool = False,
) -> TrainSummary:
    """Meta-train a prior; started again on the same run directory it goes on from the last checkpoint.

    Args:
        config: Which episodes, the learner, the network and the budget.
        tracking: Where MLflow remembers the run.
        segment_steps: Steps of one task; each starts from the last good checkpoint and is retried by itself. 0: all
            in one. From 0 to 1000000.
        renew: Once the run has ended and episodes have come since, train anew from the champion, in a folder beside it.
    """
    first = config.run
    if renew:
        config = tasks.renew(config, tracking)
    spent = Counter[str]()
    while True:
        summary = tasks.train(config, tracking, segment_steps)
        spent.update(summary.seconds)
        if summary.finished:
            if renew:
                point_to_latest(first, summary.run)
            return replace(summary, seconds=dict(spent))
