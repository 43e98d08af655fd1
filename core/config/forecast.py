"""Prior and the newest frames to a forecast."""

from typing import Literal

from pydantic import Field

from core.config.base import Stage, Thresholds, TimeText
from core.config.places import Filled, FilledFolder
from core.config.texts import AreaText


class ForecastConfig(Stage):
    """Prior and the newest frames to a forecast."""

    archive: Filled = Field("", description="URL of the archive; empty: under the pipeline's root.")
    run: Filled = Field(
        "", description="Trained run: a folder, or models:/NAME@champion; empty: the run under the pipeline's root."
    )
    output: FilledFolder = Field("", description="Folder of the forecasts; empty: under the pipeline's root.")
    init_time: TimeText = Field("", description="Start of the forecast (ISO time, UTC); empty: the newest frame.")
    region: AreaText = Field(
        "",
        description="Named area (korea, japan, ...) or 'west,south,east,north' in degrees; empty: y0, x0, ... below.",
    )
    y0: int = Field(0, ge=0, description="First row of the area, in archive pixels.")
    x0: int = Field(0, ge=0, description="First column of the area, in archive pixels.")
    height: int = Field(0, ge=0, description="Rows of the area; 0: down to the archive's edge.")
    width: int = Field(0, ge=0, description="Columns of the area; 0: over to the archive's edge.")
    members: int = Field(20, ge=2, le=500, description="Members, one a weight sample.")
    support_windows: int = Field(4, ge=0, le=64, description="Newest windows to adapt on; 0: the prior as it is.")
    support_tiles: int = Field(4, ge=1, le=64, description="Tiles of the area that each support window is cut at.")
    lookback_hours: float = Field(
        72.0, gt=0, le=8760, description="How far back frames to start from, and support windows, are looked for (h)."
    )
    max_age_minutes: int = Field(
        0, ge=0, le=100_000, description="Refuse newest frames older than this by the clock (min); 0: any age."
    )
    correlation_pixels: float = Field(
        2.0, ge=0, le=100, description="Length over which a member's noise is smooth; 0: independent pixels."
    )
    thresholds: Thresholds = Field([], description="Events whose probability is written.")
    netcdf: bool = Field(False, description="Write a NetCDF file beside the Zarr store.")
    animation: bool = Field(True, description="Make an animation (GIF) beside the picture.")
    keep_days: float = Field(
        14.0, ge=0, le=3650, description="Delete forecasts that start this long before the newest one (days); 0: never."
    )
    verify_hours: float = Field(
        24.0, gt=0, le=8760, description="Span of the rolling scores, back from the newest verified forecast (h)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto: a GPU if there is one.")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32",
        description="Arithmetic of the network when members are drawn; bf16 halves the time where a processor has it.",
    )
    seed: int = Field(0, ge=0, description="Seed of weight samples and noise.")
