"""What a monitoring system and an alarm are told of runs and of an archive."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from prefect.client.schemas.objects import StateType

from core.archive import Archive
from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.satellite.granule import Frame, Grid
from tasks import archive as alarm
from tasks import monitor

CRS = {"grid_mapping_name": "mercator", "longitude_of_projection_origin": 128.0, "standard_parallel": 0.0}


def test_all_failed_runs_are_counted_however_many_pages_they_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    flows = [SimpleNamespace(id=n, name=name) for n, name in enumerate(("ingest", "nowcast", "train"))]
    runs = [SimpleNamespace(flow_id=n % 2) for n in range(501)]
    asked = []

    def read_flow_runs(limit: int, offset: int, **filters: Any) -> list[Any]:
        asked.append(filters)
        if StateType.CANCELLED in filters["flow_run_filter"].state.type.any_:
            return []
        return runs[offset : offset + min(limit, 200)]

    @contextmanager
    def get_client(**_: Any) -> Any:
        yield SimpleNamespace(read_flows=lambda limit, offset: flows[offset:], read_flow_runs=read_flow_runs)

    monkeypatch.setattr(monitor, "get_client", get_client)
    since = datetime(2024, 6, 1, tzinfo=UTC)
    assert monitor.failed_runs("korea", since) == {"ingest": 251, "nowcast": 250, "train": 0}
    assert asked[0]["flow_run_filter"].end_time.after_ == since
    assert asked[0]["deployment_filter"].name.any_ == ["korea", "korea-latest", "korea-backfill"]


@pytest.mark.parametrize(("age", "stale"), [(10, False), (60, True)])
def test_an_archive_is_stale_by_its_newest_complete_frame(
    age: int, stale: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    origin = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    grid, url = Grid(np.arange(8) * 2000.0, -np.arange(6) * 2000.0, CRS), str(tmp_path / "archive.zarr")
    channels = {"ir": "brightness_temperature"}
    archive = Archive.create(url, grid=grid, channels=channels, origin=origin, cadence_minutes=10, years=1)
    slot = (now - timedelta(minutes=age) - origin) // timedelta(minutes=10)
    time = archive.times[slot]
    values = np.full((6, 8), 250.0, np.float32)
    archive.record(archive.write_frame(slot, Frame(channel="ir", kind="brightness_temperature", time=time,
                                                   observation_time=time, values=values, grid=grid)))  # fmt: skip
    monkeypatch.setattr(alarm, "create_markdown_artifact", lambda *_, **__: None)
    config = IngestConfig(source="x", system="cf", kind="brightness_temperature", channels=["ir"], archive=url,
                          origin=origin, times=TimeRange(start=origin, end=origin + timedelta(days=2)))  # fmt: skip
    if stale:
        with pytest.raises(FewcastError, match=r"is stale: .*limit 0:40:00; frames since then: \d unseen"):
            alarm.check_fresh.fn(config, 40)
    else:
        assert f"newest complete frame {np.datetime_as_string(time, 'D')}" in alarm.check_fresh.fn(config, 40)


def test_an_archive_whose_time_axis_has_ended_is_stale_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, url = datetime(2020, 1, 1, tzinfo=UTC), str(tmp_path / "archive.zarr")
    grid = Grid(np.arange(8) * 2000.0, -np.arange(6) * 2000.0, CRS)
    channels = {"ir": "brightness_temperature"}
    Archive.create(url, grid=grid, channels=channels, origin=origin, cadence_minutes=180, years=1)
    monkeypatch.setattr(alarm, "create_markdown_artifact", lambda *_, **__: None)
    config = IngestConfig(source="x", system="cf", kind="brightness_temperature", channels=["ir"], archive=url,
                          origin=origin, cadence_minutes=180,
                          times=TimeRange(start=origin, end=origin + timedelta(days=2)))  # fmt: skip
    with pytest.raises(FewcastError, match=r"is stale: found newest complete frame none.*since then: 2920 unseen"):
        alarm.check_fresh.fn(config, 40)
    other = config.model_copy(update={"channels": ["ir", "vis"]})
    with pytest.raises(FewcastError, match="has no channel vis: found ir"):
        alarm.check_fresh.fn(other, 40)
