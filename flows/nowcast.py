"""Prior and the newest frames to a forecast."""

from prefect import flow

from core.config import ForecastConfig
from core.forecast import Forecast
from tasks import forecast as tasks


@flow(name="nowcast")
def nowcast(config: ForecastConfig) -> Forecast:
    """Forecast an area from its newest frames, adapted to its newest past; one that is there is not made again.

    Args:
        config: Which archive, which run, the area, and how many members.
    """
    return tasks.forecast(config)
