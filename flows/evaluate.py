"""Prior and held-out episodes to a scorecard."""

from prefect import flow

from core.config import EvaluateConfig, TrackingConfig
from core.verify.folder import Scorecard
from tasks import evaluate as tasks


@flow(name="evaluate")
def evaluate(config: EvaluateConfig, tracking: TrackingConfig) -> Scorecard:
    """Score a trained run on regions and times that it has never seen, with the baselines beside it.

    Args:
        config: Which run, which episodes, and how many members.
        tracking: Where MLflow remembers the evaluation, inside its training run.
    """
    return tasks.evaluate(config, tracking)
