"""Everything a run needs: one frozen model per stage, read from TOML, rendered by Prefect as a form.

A preset is a TOML file with one table per stage. Fields are plain types, enums of strings, date-times and
nested models, since these are what the form renders; an empty string or list stands for "not given".
"""

import tomllib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import FewcastError


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UTCTime = Annotated[datetime, AfterValidator(_as_utc)]


class Stage(BaseModel):
    """What all stages share: immutable, and no key that nothing reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class TimeRange(Stage):
    """A half-open span of time."""

    start: UTCTime = Field(description="First instant (UTC), included.")
    end: UTCTime = Field(description="Last instant (UTC), excluded.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end {self.end:%Y-%m-%d %H:%M} must come after start {self.start:%Y-%m-%d %H:%M}")
        return self


class SimulatorConfig(Stage):
    """A simulated satellite that writes granules under `ingest.source` before they are ingested."""

    enabled: bool = Field(False, description="Write simulated GK-2A granules into the source first.")
    seed: int = Field(0, ge=0, description="Seed of the simulated truth.")
    pixels: int = Field(500, ge=32, le=500, description="Side of the simulated local area in 2 km pixels.")
    faults: float = Field(
        0.0, ge=0, le=1, description="Share of granules that are truncated, flipped, late, mislabelled, blank, ..."
    )


class IngestConfig(Stage):
    """Granules to archive."""

    system: Literal["gk2a", "goes", "himawari", "cf"] = Field(
        "gk2a", description="Satellite system: its key layout and its reader."
    )
    source: str = Field(description="URL of the granules' root: s3://bucket, file:///folder or a plain path.")
    anonymous: bool = Field(True, description="Read s3:// without credentials, as public buckets allow.")
    endpoint_url: str = Field("", description="Custom S3 endpoint; empty for the default one.")
    pattern: str = Field(
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
    area: str = Field(
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
        description="backfill: the times; latest: since the last complete slot until now, whatever the times; "
        "repair: read the slots of some statuses again.",
    )
    lookback_hours: float = Field(
        3.0, gt=0, le=720, description="Mode latest: how far back holes get another look, in hours."
    )
    catch_up_hours: float = Field(
        72.0, gt=0, le=100_000, description="Mode latest: the longest outage that is caught up, in hours."
    )
    repair: list[Literal["unseen", "complete", "partial", "corrupt", "absent"]] = Field(
        ["unseen", "partial", "corrupt", "absent"], description="Mode repair: the statuses to read again."
    )
    grace_minutes: int = Field(
        60, ge=0, le=100_000, description="Minutes after which a slot without a granule counts as absent at the source."
    )
    archive: str = Field("", description="URL of the archive; empty: under the pipeline's root.")
    simulator: SimulatorConfig = SimulatorConfig()

    @model_validator(mode="after")
    def _sector_of_the_system(self) -> Self:
        sectors = {"gk2a": ("fd", "la"), "goes": ("f", "c", "m1", "m2")}.get(self.system)
        if sectors and self.sector not in sectors:
            raise ValueError(f"sector {self.sector!r} is none of {self.system}'s: {', '.join(sectors)}")
        return self


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

    archive: str = Field("", description="URL of the archive; empty: under the pipeline's root.")
    store: str = Field("", description="URL of the episode store; empty: under the pipeline's root.")
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


class NetworkConfig(Stage):
    """The U-Net."""

    width: int = Field(32, ge=4, le=512, description="Channels of the finest level.")
    depth: int = Field(3, ge=1, le=6, description="Number of times the resolution is halved.")
    max_width: int = Field(128, ge=4, le=2048, description="Channels double from level to level up to this many.")
    patch: int = Field(
        1, ge=1, le=8, description="Side in pixels of the squares that the first layer folds into planes."
    )


class InnerConfig(Stage):
    """The inner loop: support to posterior."""

    steps: int = Field(3, ge=0, le=100, description="Gradient steps M.")
    rate: float = Field(0.01, gt=0, le=10, description="Step size alpha, or its first value where rates are learned.")
    learn_rates: Literal["no", "layer", "layer_step", "entry"] = Field(
        "layer_step", description="Learn the step sizes: not at all, per layer, per layer and step, or per weight."
    )
    samples: int = Field(1, ge=1, le=64, description="Weight samples per inner step.")
    perturbation: Literal["weight", "flipout", "local"] = Field(
        "weight",
        description="How training draws weights: once a batch, by Flipout, or locally (dense layers' outputs).",
    )
    antithetic: bool = Field(False, description="Draw weight samples in pairs (+eps, -eps), inside and outside.")
    kl_weight: float = Field(1.0, ge=0, le=1, description="Weight of the inner KL; 1 is the exact ELBO.")
    clip: float = Field(0.0, ge=0, description="Largest norm of an inner gradient; 0 does not clip.")
    adapt_deterministic: bool = Field(
        True, description="Adapt the parameters that have no distribution (norm affines) too, as point values."
    )


class OuterConfig(Stage):
    """The outer loop's less common choices."""

    objective: Literal["query", "support_and_query"] = Field(
        "query", description="Sets in the outer likelihood: the query alone, or both as in Ravi & Beatson."
    )
    hyper_prior: bool = Field(False, description="Add the paper's hyper-prior on theta: N(0, 1) and Gamma(1, 0.01).")
    first_order_steps: int = Field(0, ge=0, description="Meta-steps with first-order gradients before exact ones.")
    multi_step_steps: int = Field(
        0, ge=0, description="Meta-steps over which a loss on every inner step fades to the last step alone."
    )
    scalar_rate: float = Field(
        10.0, gt=0, description="Step size of the noise and of the log rates, relative to learning_rate."
    )
    clip: float = Field(0.0, ge=0, description="Largest norm of the meta-gradient; 0 does not clip.")


class TrainConfig(Stage):
    """Episodes to prior."""

    episodes: str = Field("", description="URL of the episode store; empty: under the pipeline's root.")
    run: str = Field("", description="Directory of the checkpoints; empty: under the pipeline's root.")
    learner: Literal["abml", "maml", "pooled"] = Field("abml", description="The way to train.")
    network: NetworkConfig = NetworkConfig()
    likelihood: Literal["gaussian", "gaussian_scale"] = Field(
        "gaussian", description="Noise std: one per lead time, or that times a scale per pixel from the network."
    )
    score: Literal["nll", "crps"] = Field(
        "nll", description="What the data term sums per pixel: -log density (the exact ELBO) or the density's CRPS."
    )
    score_weight: float = Field(
        1.0, gt=0, le=1000, description="Weight of the CRPS against the KL: they have other units; nll needs none."
    )
    inner: InnerConfig = InnerConfig()
    outer: OuterConfig = OuterConfig()
    fork: str = Field("", description="Directory of a run whose best checkpoint this one starts from; empty: afresh.")
    pretrain_steps: int = Field(
        0, ge=0, description="Pooled steps before the meta-steps: they make the first mean of the prior (MOPED)."
    )
    steps: int = Field(1000, ge=1, description="Meta-steps.")
    budget_minutes: float = Field(60.0, gt=0, description="Stop cleanly after this many minutes of training.")
    fit_budget: bool = Field(
        False, description="Shorten both phases alike where a first trial says that the budget would cut them off."
    )
    meta_batch: int = Field(4, ge=1, le=1024, description="Episodes of one meta-step.")
    pretrain_batch: int = Field(8, ge=1, le=1024, description="Episodes of one pooled step.")
    pretrain_windows: int = Field(
        2, ge=1, le=128, description="Windows that a pooled step takes from each of its episodes, drawn anew each time."
    )
    augment: bool = Field(True, description="Turn and flip training episodes, all windows of one alike.")
    pretrain_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Pooled steps see this earliest part of the training time, meta-steps the rest; 1: both see all.",
    )
    pretrain_rate: float = Field(2e-3, gt=0, le=1, description="Outer step size of the pooled steps (Adam).")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Outer step size beta (Adam).")
    warmup_steps: int = Field(50, ge=0, description="Steps over which either step size rises linearly from 0.")
    decay: Literal["cosine", "none"] = Field("cosine", description="How either step size falls over its steps.")
    samples: int = Field(1, ge=1, le=64, description="Weight samples of the outer expectation.")
    kl_weight: float = Field(1.0, ge=0, le=1, description="Weight of the outer KL; 1 is the exact ELBO.")
    initial_log_std: float = Field(-4.5, ge=-15, le=2, description="Natural log of the prior's first std.")
    gradient: Literal["auto", "unrolled", "checkpointed", "mixed", "first_order"] = Field(
        "auto", description="How to differentiate through the inner loop; all but first_order are exact."
    )
    validate_every: int = Field(100, ge=1, description="Steps between validations and checkpoints.")
    validation_episodes: int = Field(32, ge=1, description="Validation episodes scored each time, the same each time.")
    validation_members: int = Field(4, ge=1, le=100, description="Weight samples of a validation forecast.")
    patience: int = Field(0, ge=0, description="Validations without a better CRPS before stopping early; 0: never.")
    averaging: float = Field(
        0.0, ge=0, lt=1, description="Decay a step of an average of the prior that is validated and used; 0: none."
    )
    keep: int = Field(2, ge=1, le=1000, description="Newest checkpoints to keep, beside the best.")
    workers: int = Field(
        1, ge=1, le=64, description="Episodes differentiated at a time by threads of a rank, each with torch's threads."
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of torch in each worker; 0: as torch chooses.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute; auto: a GPU if there is one.")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        "float32", description="Arithmetic of the network; tf32 needs a GPU. Parameters and losses stay in float32."
    )
    execution: Literal["eager", "cuda_graph", "compile"] = Field(
        "eager",
        description="Run a meta-gradient operator by operator, as one recorded CUDA graph (GPU), or by torch.compile.",
    )
    seed: int = Field(0, ge=0, description="Seed of weights, noise and episode order.")


class Threshold(Stage):
    """An event whose probability a forecast states: a channel above, or below, a value."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_]+$", description="Name of the event, as cold_tops.")
    channel: str = Field("", description="Channel, by the archive's name; empty: the first.")
    value: float = Field(ge=-100, le=65_534, description="Threshold in the channel's units (K, percent or counts).")
    above: bool = Field(False, description="The event is a value above the threshold; off: below it.")


class EvaluateConfig(Stage):
    """Prior and held-out episodes to a scorecard."""

    run: str = Field("", description="Directory of the trained run; empty: under the pipeline's root.")
    more_runs: list[str] = Field([], description="Directories of further runs to score beside it.")
    deep_ensemble: list[str] = Field([], description="Runs whose forecasts are pooled into one more row.")
    episodes: str = Field("", description="URL of the episode store; empty: under the pipeline's root.")
    archive: str = Field("", description="URL of the archive, for baselines that see the whole domain.")
    scorecard: str = Field("", description="Directory of the scorecard; empty: under the pipeline's root.")
    split: Literal["test", "validation"] = Field("test", description="Which held-out episodes to score.")
    members: int = Field(20, ge=2, le=500, description="Weight samples (members) of a forecast.")
    baselines: list[Literal["climatology", "optical_flow", "steps"]] = Field(
        ["climatology"],
        description="Rows beside persistence; optical flow and STEPS see the whole domain (STEPS: seconds a start).",
    )
    pretrained: bool = Field(
        True, description="Also score the pooled network from which the run's meta-training started, if it has one."
    )
    shuffled: bool = Field(True, description="Also adapt to the support of another context, as a control.")
    support_curve: list[Annotated[int, Field(ge=0, le=64)]] = Field(
        [], description="Numbers of support windows to adapt on, for a few-shot curve."
    )
    step_curve: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        [], description="Numbers of inner steps to adapt by, for a curve."
    )
    thresholds: list[Threshold] = Field(
        [], description="Events to score; empty: one std to the cloudy side of each channel's mean."
    )
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples of the block bootstrap.")
    bootstrap_hours: float = Field(6.0, gt=0, description="Length of a bootstrap block in hours.")
    seed: int = Field(0, ge=0, description="Seed of the members and of the bootstrap.")


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
        0.0, ge=0, le=100, description="Length over which a member's noise is smooth; 0: independent pixels."
    )
    thresholds: list[Threshold] = Field([], description="Events whose probability is written.")
    netcdf: bool = Field(False, description="Write a NetCDF file beside the Zarr store.")
    seed: int = Field(0, ge=0, description="Seed of weight samples and noise.")


class TrackingConfig(Stage):
    """Where runs are remembered."""

    uri: str = Field("", description="MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else data/mlflow.db (SQLite).")
    experiment: str = Field("", description="MLflow experiment; empty: the preset's name.")
    parent: str = Field("", description="Folder of a tracked run in which MLflow shows this one; empty: none.")


class PipelineConfig(Stage):
    """All stages of one named run."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the preset.")
    root: str = Field("", description="Folder or URL under which all data are kept; empty: data/<name>.")
    ingest: IngestConfig
    episodes: EpisodesConfig
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    forecast: ForecastConfig = ForecastConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _place(cls, values: Any) -> Any:
        """Fill every location that was left empty from the root, so that each stage stands alone."""
        if not isinstance(values, dict) or "name" not in values:
            return values
        root = (values.get("root") or f"data/{values['name']}").rstrip("/")
        places = {
            ("ingest", "archive"): f"{root}/archive.zarr",
            ("episodes", "archive"): f"{root}/archive.zarr",
            ("episodes", "store"): f"{root}/episodes.zarr",
            ("train", "episodes"): f"{root}/episodes.zarr",
            ("train", "run"): f"{root}/run",
            ("evaluate", "run"): f"{root}/run",
            ("evaluate", "episodes"): f"{root}/episodes.zarr",
            ("evaluate", "archive"): f"{root}/archive.zarr",
            ("evaluate", "scorecard"): f"{root}/scorecard",
            ("forecast", "archive"): f"{root}/archive.zarr",
            ("forecast", "run"): f"{root}/run",
            ("forecast", "output"): f"{root}/forecasts",
            ("tracking", "experiment"): values["name"],
        }
        filled = {**values, "root": root}
        for (stage, key), place in places.items():
            table = filled.get(stage, {})
            if isinstance(table, BaseModel):
                table = table.model_dump()
            if isinstance(table, dict) and not table.get(key):
                filled[stage] = {**table, key: place}
        return filled


def load(path: Path, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Read a TOML file and apply `stage.key=value` overrides (values in TOML syntax, or bare words).

    Raises `FewcastError` with one clear line for a file that is not TOML, an unknown key, or a value out of bounds.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise FewcastError(
            f"cannot read the configuration {path}",
            found=error.strerror or str(error),
            mend="give the path of a TOML file",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise FewcastError(f"{path} is not valid TOML", found=str(error), mend="correct that line") from error
    return _validated(values, overrides, path.name)


def change(config: PipelineConfig, overrides: Iterable[str]) -> PipelineConfig:
    """The same config with `stage.key=value` overrides, validated anew; raises as `load` does."""
    return _validated(config.model_dump(), overrides, config.name)


def _validated(values: dict[str, Any], overrides: Iterable[str], name: str) -> PipelineConfig:
    for override in overrides:
        _override(values, override)
    try:
        return PipelineConfig.model_validate(values)
    except ValidationError as error:
        raise FewcastError(
            f"the configuration {name} is not valid",
            found=_first_problem(error),
            mend="see `fewcast config` for every key with its bounds",
        ) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise FewcastError("--set needs key=value", found=repr(override), mend="write, say, --set train.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, name = key.strip().split(".")
    table = values
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise FewcastError(
                f"--set {key}: {part} is a value, not a table", found=repr(table), mend="name a key of PipelineConfig"
            )
    table[name] = value


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    given = "" if first["type"] in ("missing", "extra_forbidden") else f" (given: {first['input']!r})"
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{where}: {first['msg']}{given}{more}"
