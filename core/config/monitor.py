"""What a monitoring system is told."""

from pydantic import Field

from core.config.base import Stage
from core.config.places import Filled, FilledFolder


class MonitorConfig(Stage):
    """What a monitoring system is told of the archive, the forecasts and the runs."""

    name: Filled = Field("", description="Label `preset` of the metrics; empty: the pipeline's name.")
    archive: Filled = Field("", description="URL of the archive; empty: under the pipeline's root.")
    channels: list[str] = Field(
        [], description="Channels that the newest slot must have; empty: the pipeline's, else all of the archive."
    )
    forecasts: FilledFolder = Field("", description="Folder of the forecasts; empty: under the pipeline's root.")
    folder: str = Field(
        "data/metrics", min_length=1, description="Folder of the metrics file, read by a textfile collector."
    )
    window_hours: float = Field(
        24.0, gt=0, le=720, description="Span that gaps, failures and skill are counted over (h)."
    )
