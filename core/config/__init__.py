"""Everything a run needs: one frozen model per stage, read from TOML, rendered by Prefect as a form.

A preset is a TOML file with one table per stage. Fields are plain types, enums of strings, date-times and
nested models, since these are what the form renders; an empty string or list stands for "not given".
"""

from core.config.base import Stage, Threshold, TimeRange, UTCTime
from core.config.episodes import EpisodesConfig, SplitConfig
from core.config.evaluate import EvaluateConfig
from core.config.forecast import ForecastConfig
from core.config.ingest import IngestConfig, SimulatorConfig
from core.config.monitor import MonitorConfig
from core.config.pipeline import EvaluationConfig, PipelineConfig, TrackingConfig
from core.config.toml import change, evaluation, load, scorecard_name
from core.config.train import InnerConfig, NetworkConfig, OuterConfig, TrainConfig

__all__ = [
    "EpisodesConfig",
    "EvaluateConfig",
    "EvaluationConfig",
    "ForecastConfig",
    "IngestConfig",
    "InnerConfig",
    "MonitorConfig",
    "NetworkConfig",
    "OuterConfig",
    "PipelineConfig",
    "SimulatorConfig",
    "SplitConfig",
    "Stage",
    "Threshold",
    "TimeRange",
    "TrackingConfig",
    "TrainConfig",
    "UTCTime",
    "change",
    "evaluation",
    "load",
    "scorecard_name",
]
