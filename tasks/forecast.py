"""Prior and the newest frames to a forecast, and past forecasts against what came."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from core.config import ForecastConfig, TrackingConfig
from core.forecast.forecast import Forecast
from core.forecast.forecast import forecast as forecast_area
from core.forecast.verification import Verified, verify_forecasts
from tasks.pictures import publish_file
from tasks.policies import LOCAL, NETWORK
from tasks.reporting import Reporting
from tasks.summary import publish
from tasks.tracking import local_run, model_page


@task(name="forecast", **NETWORK)
def forecast(config: ForecastConfig, tracking: TrackingConfig) -> Forecast:
    """Adapt to the newest windows of the area and forecast from its newest frames."""
    with Reporting("nowcast") as report:
        own = config.model_copy(update={"run": local_run(config.run, tracking, report)})
        made = forecast_area(own, report=report)
        report.message(f"{'skipped, it is there' if made.skipped else 'made'}: {made.url}")
    publish("nowcast", made, model=model_page(config.run, tracking))
    if made.skipped:  # its pictures are on the run that made it
        return made
    start = f"{made.init_time.astype('M8[m]')} UTC"
    publish_file("nowcast-picture", Path(made.picture), f"Forecast from {start}")
    if made.animation:
        words = f"Animation from {start}, its last frame: {made.animation} has all"
        publish_file("nowcast-animation", Path(made.animation), words)
    return made


@task(name="verify", **LOCAL)
def verify(config: ForecastConfig) -> Verified:
    """Score what has come since, and put the rolling scores on the run."""
    with Reporting("verify") as report:
        found = verify_forecasts(config, report=report)
        report.message(
            f"{found.lead_times} lead times of {found.scored} forecasts scored, {found.waiting} wait for their truth"
        )
    create_markdown_artifact(f"{found.markdown}\n\nScores: {found.url}\n", key="verification")
    return found
