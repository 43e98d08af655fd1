"""Prior and the newest frames to a forecast."""

from prefect import flow

from core.config import ForecastConfig, TrackingConfig
from core.forecast.forecast import Forecast
from tasks import forecast as tasks


@flow(name="nowcast")
def nowcast(config: ForecastConfig, tracking: TrackingConfig) -> Forecast:
    """Forecast an area from its newest frames, adapted to its newest past; one that is there is not made again.

    Args:
        config: Which archive, the area, how many members, and which run: a folder, or models:/NAME@champion.
        tracking: The MLflow server that knows the models by name.
    """
    return tasks.forecast(config, tracking)
