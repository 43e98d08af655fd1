"""Prior and the newest frames to a forecast."""

from pydantic import Field

from core.config.base import Stage, Threshold


class ForecastConfig(Stage):
    """Prior and the newest frames to a forecast."""

    archive: str = Field("", description="URL of the archive; empty: under the pipeline's root.")
    run: str = Field("", description="Directory of the trained run; empty: under the pipeline's root.")
    output: str = Field("", description="Folder of the forecasts; empty: under the pipeline's root.")
    init_time: str = Field("", description="Start of the forecast (ISO time, UTC); empty: the newest frame.")
    y0: int = Field(0, ge=0, description="First row of the area, in archive pixels.")
    x0: int = Field(0, ge=0, description="First column of the area, in archive pixels.")
    height: int = Field(0, ge=0, description="Rows of the area; 0: down to the archive's edge.")
    width: int = Field(0, ge=0, description="Columns of the area; 0: over to the archive's edge.")
    members: int = Field(20, ge=2, le=500, description="Members, one a weight sample.")
    support_windows: int = Field(4, ge=0, le=64, description="Newest windows to adapt on; 0: the prior as it is.")
    support_tiles: int = Field(4, ge=1, le=64, description="Tiles of the area that each support window is cut at.")
    correlation_pixels: float = Field(
        2.0, ge=0, le=100, description="Length over which a member's noise is smooth; 0: independent pixels."
    )
    thresholds: list[Threshold] = Field([], description="Events whose probability is written.")
    netcdf: bool = Field(False, description="Write a NetCDF file beside the Zarr store.")
    seed: int = Field(0, ge=0, description="Seed of weight samples and noise.")
