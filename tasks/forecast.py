"""Prior and the newest frames to a forecast."""

from pathlib import Path

from prefect import task

from core.config import ForecastConfig, TrackingConfig
from core.forecast import Forecast
from core.forecast import forecast as forecast_area
from tasks.pictures import publish_file
from tasks.policies import NETWORK
from tasks.reporting import Reporting
from tasks.summary import publish
from tasks.tracking import local_run


@task(name="forecast", tags=["gpu"], **NETWORK)
def forecast(config: ForecastConfig, tracking: TrackingConfig) -> Forecast:
    """Adapt to the newest windows of the area and forecast from its newest frames."""
    with Reporting("nowcast") as report:
        own = config.model_copy(update={"run": local_run(config.run, tracking)})
        made = forecast_area(own, report=report)
        report.message(f"{'skipped, it is there' if made.skipped else 'made'}: {made.url}")
    publish("nowcast", made)
    if Path(made.picture).exists():
        publish_file("nowcast-picture", Path(made.picture), f"Forecast from {made.init_time} UTC")
    return made
