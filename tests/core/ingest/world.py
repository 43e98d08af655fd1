"""A small simulated source and its archive, for the tests of ingestion."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from core.archive.objects import LocalObjects
from core.config import IngestConfig
from core.ingest import ingest
from core.satellite import simulator

NOW = datetime(2024, 3, 2, 12, tzinfo=UTC)
SLOTS, CHANNELS = 14, ("ir105", "vi004")


def config(root: Path, **changes) -> IngestConfig:
    base = {
        "source": str(root / "granules"),
        "archive": str(root / "archive.zarr"),
        "channels": list(CHANNELS),
        "times": {"start": "2024-03-01T21:00", "end": "2024-03-02T04:00"},
        "origin": "2024-03-01T00:00",
        "cadence_minutes": 30,
        "years": 1,
        "block": 2,
        "simulator": {"enabled": True, "seed": 5, "pixels": 48},
    }
    return IngestConfig.model_validate(base | changes)


def run(settings: IngestConfig, **more):
    return ingest(settings, clock=lambda: NOW, **more)


def path(root: Path, channel: str, stamp: str) -> Path:
    return root / "granules" / simulator.key(channel, np.datetime64(stamp, "s"))


def contents(archive: str) -> dict[str, bytes]:
    objects = LocalObjects(archive)
    return {key: objects.get(key) or b"" for key, _ in objects.keys("") if key != ".lock"}
