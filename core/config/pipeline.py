"""All stages of one named run, each location filled from one root, and where the run is remembered."""

from typing import Any

from pydantic import BaseModel, Field, model_validator

from core.config.base import Stage
from core.config.episodes import EpisodesConfig
from core.config.evaluate import EvaluateConfig
from core.config.forecast import ForecastConfig
from core.config.ingest import IngestConfig
from core.config.monitor import MonitorConfig
from core.config.train import TrainConfig


class TrackingConfig(Stage):
    """Where runs are remembered."""

    uri: str = Field("", description="MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else data/mlflow.db (SQLite).")
    experiment: str = Field("", description="MLflow experiment; empty: the preset's name.")
    parent: str = Field("", description="Folder of a tracked run in which MLflow shows this one; empty: none.")


class PipelineConfig(Stage):
    """All stages of one named run."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Name of the preset.")
    root: str = Field("", description="Folder or URL under which all data are kept; empty: data/NAME.")
    ingest: IngestConfig
    episodes: EpisodesConfig
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    forecast: ForecastConfig = ForecastConfig()
    monitor: MonitorConfig = MonitorConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _place(cls, values: Any) -> Any:
        """Fill every empty location from the stage before, else from the root, so that each stage stands alone."""
        if not isinstance(values, dict) or "name" not in values:
            return values
        root = values.get("root") or f"data/{values['name']}"
        if not isinstance(root, str):
            return values
        root = root.rstrip("/")

        def at(stage: str, key: str, name: str) -> str:
            """Where a stage was told to leave something: the stages after it look for it there."""
            table = _table(values.get(stage))
            return (isinstance(table, dict) and table.get(key)) or f"{root}/{name}"

        archive, store = at("ingest", "archive", "archive.zarr"), at("episodes", "store", "episodes.zarr")
        run, forecasts = at("train", "run", "run"), at("forecast", "output", "forecasts")
        places: dict[tuple[str, str], Any] = {
            ("ingest", "archive"): archive,
            ("episodes", "archive"): archive,
            ("episodes", "store"): store,
            ("train", "episodes"): store,
            ("train", "run"): run,
            ("evaluate", "run"): run,
            ("evaluate", "episodes"): store,
            ("evaluate", "archive"): archive,
            ("evaluate", "scorecard"): f"{root}/scorecard",
            ("forecast", "archive"): archive,
            ("forecast", "run"): run,
            ("forecast", "output"): forecasts,
            ("monitor", "name"): values["name"],
            ("monitor", "archive"): archive,
            ("monitor", "forecasts"): forecasts,
            ("tracking", "experiment"): values["name"],
        }
        ingest = _table(values.get("ingest"))
        if isinstance(ingest, dict):
            shared = {("evaluate", "simulator"): "simulator", ("monitor", "channels"): "channels"}
            places |= {place: ingest[key] for place, key in shared.items() if ingest.get(key)}
        filled = {**values, "root": root}
        for (stage, key), place in places.items():
            table = _table(filled.get(stage, {}))
            if isinstance(table, dict) and not table.get(key):
                filled[stage] = {**table, key: place}
        return filled


class EvaluationConfig(Stage):
    """An evaluation by itself: a model and episodes, of whatever preset they are."""

    evaluate: EvaluateConfig
    tracking: TrackingConfig = TrackingConfig()


def _table(stage: Any) -> Any:
    return stage.model_dump() if isinstance(stage, BaseModel) else stage
