"""Granules to archive, and the simulated satellite that may write the granules first."""

from typing import Literal, Self

from pydantic import Field, model_validator

from core.config.base import Stage, TimeRange, UTCTime
from core.config.places import Filled
from core.config.texts import AreaText, KeyPattern


class SimulatorConfig(Stage):
    """A simulated satellite that writes granules under `ingest.source` before they are ingested."""

    enabled: bool = Field(False, description="Write simulated GK-2A granules into the source first.")
    process: Literal["clouds", "linear"] = Field(
        "clouds",
        description="clouds: a rich sky; linear: a stochastic process whose best forecast is known.",
    )
    region_pixels: int = Field(
        12, ge=8, le=64, description="linear: side of the squares that have parameters of their own, in pixels."
    )
    seed: int = Field(0, ge=0, description="Seed of the simulated truth.")
    pixels: int = Field(500, ge=32, le=500, description="Side of the simulated local area in 2 km pixels.")
    faults: float = Field(
        0.0, ge=0, le=1, description="Share of granules that are truncated, flipped, late, mislabelled, blank, ..."
    )

    @model_validator(mode="after")
    def _whole_squares(self) -> Self:
        if self.process == "linear" and self.pixels % self.region_pixels:
            raise ValueError(f"{self.pixels} pixels are no whole number of squares of {self.region_pixels}")
        return self


class IngestConfig(Stage):
    """Granules to archive."""

    system: Literal["gk2a", "goes", "himawari", "cf"] = Field(
        "gk2a", description="Satellite system: its key layout and its reader."
    )
    source: str = Field(
        min_length=1, description="URL of the granules' root: s3://bucket, file:///folder or a plain path."
    )
    anonymous: bool = Field(True, description="Read s3:// without credentials, as public buckets allow.")
    endpoint_url: str = Field("", description="Custom S3 endpoint; empty for the default one.")
    pattern: KeyPattern = Field(
        "", description="Key pattern for `cf`: strftime codes and {channel}, say 'frame_{channel}_%Y%m%dT%H%M.nc'."
    )
    kind: Literal["display_count", "brightness_temperature", "reflectance"] = Field(
        "display_count", description="What the frames of `cf` hold; the other systems know it by channel."
    )
    connections: int = Field(8, ge=1, le=64, description="Downloads at a time.")
    retries: int = Field(4, ge=0, le=20, description="Further tries of a download that failed.")
    timeout_seconds: float = Field(30.0, gt=0, le=600, description="Longest wait for the source's next bytes (s).")
    whole_megabytes: int = Field(
        16, ge=1, le=4096, description="Files up to this size (MB) are fetched whole, larger ones by the blocks needed."
    )
    sector: Literal["fd", "la", "c", "f", "m1", "m2", ""] = Field(
        "la", description="Scan sector: fd or la (GK-2A), f, c, m1 or m2 (GOES); empty where the system has none."
    )
    area: AreaText = Field(
        "", description="Named area (korea, japan, conus, ...) or 'west,south,east,north' in degrees; empty: all."
    )
    conditional: bool = Field(False, description="Keep pixels flagged as conditionally usable.")
    sun_angle: bool = Field(False, description="Add the sun's elevation (degrees) as a channel of its own.")
    channels: list[str] = Field(min_length=1, description="Channels to keep, by the system's own names.")
    times: TimeRange = Field(description="Which slots to ingest.")
    origin: UTCTime = Field(description="First slot of the archive's time axis; it fixes the phase of all slots.")
    cadence_minutes: int = Field(10, ge=1, le=180, description="Minutes between slots.")
    years: int = Field(10, ge=1, le=50, description="Length of the preallocated time axis in years.")
    block: int = Field(1, ge=1, le=64, description="Average blocks of this many pixels in each direction.")
    mode: Literal["backfill", "latest", "repair"] = Field(
        "backfill",
        description="backfill: the times; latest: what is missing until now, whatever the times; "
        "repair: read the slots of some statuses again.",
    )
    lookback_hours: float = Field(
        3.0,
        gt=0,
        le=720,
        description="Mode latest: how far back holes and corrupt granules get another look, in hours; after an outage, "
        "from its beginning.",
    )
    catch_up_hours: float = Field(
        72.0, gt=0, le=100_000, description="Mode latest: how far back what was never fetched is caught up, in hours."
    )
    repair: list[Literal["unseen", "complete", "partial", "corrupt", "absent", "frozen"]] = Field(
        ["unseen", "partial", "corrupt", "absent"],
        description="Mode repair: the statuses to read again; frozen: of the corrupt, what repeats the frame before.",
    )
    grace_minutes: int = Field(
        60, ge=0, le=100_000, description="Minutes after which a slot without a granule counts as absent at the source."
    )
    archive: Filled = Field("", description="URL of the archive; empty: under the pipeline's root.")
    simulator: SimulatorConfig = SimulatorConfig()

    @model_validator(mode="after")
    def _sector_of_the_system(self) -> Self:
        sectors = {"gk2a": ("fd", "la"), "goes": ("f", "c", "m1", "m2")}.get(self.system)
        if sectors and self.sector not in sectors:
            raise ValueError(f"sector {self.sector!r} is none of {self.system}'s: {', '.join(sectors)}")
        return self
