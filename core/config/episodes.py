"""Archive to episodes, and what is held out."""

from typing import Literal

from pydantic import Field

from core.config.base import Stage, TimeRange
from core.config.places import Filled


class SplitConfig(Stage):
    """What is held out, in space and in time.

    Tile (row r, column c) of the lattice belongs to test where (r + 2 c) mod `modulus` = 0, to validation
    where it is 1, and to training elsewhere. A held-out region is such a tile at training times, a held-out
    time is a training tile at validation or test times, and both is a held-out tile at its own times.
    """

    modulus: int = Field(5, ge=3, le=50, description="One tile in this many is test, one is validation.")
    train: list[TimeRange] = Field(min_length=1, description="Times of the training windows.")
    validation: list[TimeRange] = Field(min_length=1, description="Times of the validation windows.")
    test: list[TimeRange] = Field(min_length=1, description="Times of the test windows.")
    buffer_pixels: int = Field(
        0, ge=0, le=1024, description="Least distance between tiles of different splits, in pixels."
    )
    buffer_minutes: int = Field(
        0,
        ge=0,
        le=525_600,
        description="Least time between frames of different splits; test keeps its times, the others give way.",
    )


class EpisodesConfig(Stage):
    """Archive to episodes."""

    archive: Filled = Field("", description="URL of the archive; empty: under the pipeline's root.")
    store: Filled = Field("", description="URL of the episode store; empty: under the pipeline's root.")
    channels: list[str] = Field([], description="Channels of a frame, in this order; empty: all of the archive.")
    input_frames: int = Field(4, ge=1, le=48, description="Input frames k of a window.")
    target_frames: int = Field(4, ge=1, le=72, description="Target frames L of a window.")
    cadence_minutes: int = Field(
        0, ge=0, le=1440, description="Minutes between the frames of a window; 0: the archive's."
    )
    tile_pixels: int = Field(64, ge=8, le=2048, description="Side of a region tile in archive pixels.")
    margin_pixels: int = Field(0, ge=0, le=512, description="Pixels around the tile that the network sees as well.")
    overlap: float = Field(
        0.0, ge=0, le=0.9, description="Overlap of neighbouring training tiles, as a fraction of their side."
    )
    jitter_pixels: int = Field(
        0,
        ge=0,
        le=4096,
        description="A training tile may be cut this far from its place, if it touches no held-out pixel.",
    )
    span: Literal["season", "month", "hours"] = Field(
        "season", description="Length of a context: a season of a year, a month, or `span_hours` (for short archives)."
    )
    span_hours: float = Field(24.0, gt=0, le=8784, description="Length of a context where `span` is hours.")
    span_stride_hours: float = Field(
        0.0,
        ge=0,
        le=8784,
        description="Hours between the starts of contexts where `span` is hours; 0: a quarter of it.",
    )
    support_windows: int = Field(4, ge=0, le=64, description="Support windows N_S of an episode.")
    query_windows: int = Field(4, ge=1, le=64, description="Query windows N_Q of an episode.")
    draw: Literal["recent", "random"] = Field(
        "recent", description="Support: the latest windows before the query, or any earlier ones of the context."
    )
    support_stride: int = Field(
        1, ge=1, le=1000, description="Least number of slots between starts of support windows."
    )
    query_stride: int = Field(1, ge=1, le=1000, description="Least number of slots between starts of query windows.")
    gap_minutes: int = Field(
        0, ge=0, le=525_600, description="Least time between support and query, beyond the cadence."
    )
    activity: float = Field(
        0.5, ge=0, le=4, description="Training draws windows in proportion to their change to this power; 0: evenly."
    )
    allow_partial: bool = Field(False, description="Use frames of status 2 (partial) too, with their holes masked.")
    minimum_coverage: float = Field(0.5, ge=0, le=1, description="Least observed fraction of a tile in every frame.")
    minimum_sun_degrees: float = Field(
        -90.0,
        ge=-90,
        le=90,
        description="Least sun elevation in every frame, for visible channels; -90: day and night.",
    )
    train_episodes: int = Field(512, ge=1, description="Training episodes to build.")
    validation_episodes: int = Field(64, ge=1, description="Validation episodes to build, per kind of hold-out.")
    test_episodes: int = Field(64, ge=1, description="Test episodes to build, per kind of hold-out.")
    compression: Literal["none", "lz4"] = Field("none", description="How the shards are compressed.")
    split: SplitConfig
    seed: int = Field(0, ge=0, description="Seed of the episodes.")
