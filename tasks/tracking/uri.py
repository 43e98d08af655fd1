"""Which MLflow server a config means."""

import os

from core.config import TrackingConfig

FILE = "sqlite:///"


def tracking_uri(tracking: TrackingConfig) -> str:
    """The config's server, else MLflow's own setting, else a SQLite file in data/."""
    return tracking.uri or os.environ.get("MLFLOW_TRACKING_URI", "") or f"{FILE}data/mlflow.db"
