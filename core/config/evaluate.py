"""Prior and held-out episodes to a scorecard."""

from typing import Annotated, Literal

from pydantic import Field

from core.config.base import Stage, Thresholds
from core.config.ingest import SimulatorConfig
from core.config.places import Filled


class EvaluateConfig(Stage):
    """Prior and held-out episodes to a scorecard."""

    run: Filled = Field(
        "", description="Directory of the trained run, or models:/NAME@ALIAS; empty: under the pipeline's root."
    )
    more_runs: list[str] = Field([], description="Further runs, or models, to score beside it.")
    deep_ensemble: list[str] = Field([], description="Runs, or models, whose forecasts are pooled into one more row.")
    episodes: Filled = Field("", description="URL of the episode store; empty: under the pipeline's root.")
    archive: str = Field("", description="URL of the archive, for baselines that see the whole domain.")
    scorecard: Filled = Field("", description="Directory of the scorecard; empty: under the pipeline's root.")
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
    thresholds: Thresholds = Field(
        [], description="Events to score; empty: one std to the cloudy side of each channel's mean."
    )
    simulator: SimulatorConfig = Field(
        SimulatorConfig(),
        description="If enabled and linear, what made the frames: the optimum is a row. A pipeline sets it as its own.",
    )
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples of the block bootstrap.")
    bootstrap_hours: float = Field(6.0, gt=0, description="Length of a bootstrap block in hours.")
    seed: int = Field(0, ge=0, description="Seed of the members and of the bootstrap.")
