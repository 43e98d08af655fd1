"""Episodes to prior."""

from prefect import flow

from core.config import TrackingConfig, TrainConfig
from core.train import TrainSummary
from tasks import train as tasks


@flow(name="train", flow_run_name="train {config.learner}")
def train(config: TrainConfig, tracking: TrackingConfig) -> TrainSummary:
    """Meta-train a prior; started again on the same run directory it goes on from the last checkpoint.

    Args:
        config: Which episodes, the learner, the network and the budget.
        tracking: Where MLflow remembers the run.
    """
    return tasks.train(config, tracking)
