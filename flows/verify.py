"""Past forecasts against what came."""

from prefect import flow

from core.config import ForecastConfig
from core.forecast.verification import Verified
from tasks import forecast as tasks


@flow(name="verify")
def verify(config: ForecastConfig) -> Verified:
    """Score every forecast of the folder at the lead times whose truth has come; each is scored once.

    Args:
        config: Which folder of forecasts, which archive has the truth, and the span of the rolling scores.
    """
    return tasks.verify(config)
