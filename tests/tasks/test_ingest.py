"""What the server is told after an ingest: what starts a nowcast, and what keeps the alarm of a stale archive quiet."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.archive import Archive, Status, Stored
from core.config import IngestConfig, TimeRange
from core.ingest import IngestSummary
from core.report import Silent
from core.satellite.granule import Grid
from tasks import events, ingest

NOW = datetime.now(UTC)
ORIGIN = NOW.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
CRS = {"grid_mapping_name": "mercator", "longitude_of_projection_origin": 128.0, "standard_parallel": 0.0}


def test_any_frame_is_growth_and_only_a_newer_slot_with_all_channels_is_an_advance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "archive.zarr")
    archive = Archive.create(
        url, grid=Grid(np.arange(8) * 2000.0, -np.arange(6) * 2000.0, CRS), origin=ORIGIN, cadence_minutes=10, years=1,
        channels={"ir": "brightness_temperature", "wv": "brightness_temperature", "more": "brightness_temperature"},
    )  # fmt: skip
    config = IngestConfig(source="x", system="cf", channels=["ir", "wv"], origin=ORIGIN, archive=url, mode="latest",
                          times=TimeRange(start=ORIGIN, end=ORIGIN + timedelta(days=2)))  # fmt: skip

    def told(*frames: tuple[int, str]) -> list[str]:
        """The events of a run that brings these frames."""

        def brings(*_: Any, **__: Any) -> IngestSummary:
            archive.record(Stored(slot, channel, Status.COMPLETE) for slot, channel in frames)
            return IngestSummary(url, len(frames), 0, 0, 0, 0, 0, 0)

        said: list[str] = []
        monkeypatch.setattr(ingest, "ingest_granules", brings)
        monkeypatch.setattr(events, "emit_event", lambda event, **_: said.append(event))
        ingest.ingest.fn(config)
        return said

    monkeypatch.setattr(ingest, "Reporting", lambda _: nullcontext(Silent()))
    for name in ("publish", "create_markdown_artifact", "publish_figure"):
        monkeypatch.setattr(ingest, name, lambda *_, **__: None)
    grown, advanced = [events.ARCHIVE_GREW], [events.ARCHIVE_GREW, events.ARCHIVE_ADVANCED]
    assert told((20, "ir"), (20, "wv")) == advanced
    assert told((21, "ir")) == grown, "the other channel is dead"
    assert told((10, "ir"), (10, "wv")) == grown, "late ones, or a backfill"
    assert told() == []
    assert told((21, "wv")) == advanced
