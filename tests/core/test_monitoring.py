"""The metrics file against the archive and the forecasts that it describes."""

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import s3fs
from prometheus_client.parser import text_string_to_metric_families

from core.archive import Archive, Status, Stored, bucket
from core.config import ForecastConfig, MonitorConfig
from core.forecast.forecast import forecast
from core.forecast.verification import verify_forecasts
from core.monitoring import write_metrics
from core.report import Silent
from core.satellite.granule import Grid
from tests.core.conftest import CRS
from tests.core.loopback import CREDENTIALS

NOW = datetime(2024, 6, 4, 0, 10, tzinfo=UTC)


def read(path: str) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels but the preset's."""
    found = {}
    for family in text_string_to_metric_families(Path(path).read_text()):
        for sample in family.samples:
            assert sample.labels.pop("preset") == "tiny"
            found[(sample.name.removeprefix("fewcast_"), *sample.labels.values())] = sample.value
    return found


def test_the_metrics_are_those_of_what_lies_there(chain, tmp_path):
    forecasts = ForecastConfig(
        archive=chain.archive, run=chain.run, output=str(tmp_path / "out"), members=2, support_windows=0,
        animation=False,
    )  # fmt: skip
    forecast(forecasts.model_copy(update={"init_time": "2024-06-03T21:00"}))
    newest = forecast(forecasts)
    row = verify_forecasts(forecasts).rolling["rows"][0]
    config = MonitorConfig(
        name="tiny", archive=chain.archive, forecasts=forecasts.output, folder=str(tmp_path / "metrics")
    )
    found = read(write_metrics(config, {"ingest": 2, "nowcast": 0}, NOW))
    start = datetime(2024, 6, 3, 23, 30, tzinfo=UTC).timestamp()
    assert found["archive_newest_slot_timestamp_seconds",] == start
    assert found["nowcast_newest_init_timestamp_seconds",] == start
    written = (Path(newest.url) / "zarr.json").stat().st_mtime
    assert found["nowcast_lag_seconds",] == pytest.approx(written - start)
    # 24 hours back from 00:10: 48 slots on the half hour, the one at 00:00 not seen yet
    states = {state: found["archive_slots", state] for state in ("complete", "partial", "unseen", "corrupt", "absent")}
    assert sum(states.values()) == 48
    assert states["unseen"] == 1
    assert (found["nowcasts",], found["nowcasts_verified",]) == (2, 1)
    verified = datetime(2024, 6, 3, 21, tzinfo=UTC).timestamp()
    assert found["nowcast_verified_newest_init_timestamp_seconds",] == verified
    assert found["nowcast_crps", "ir", "30"] == row["crps"]
    assert found["nowcast_skill", "ir", "30"] == row["skill"]
    assert found["nowcast_coverage90", "ir", "30"] == row["coverage90"]
    assert (found["flow_runs_failed", "ingest"], found["flow_runs_failed", "nowcast"]) == (2, 0)
    assert found["monitor_timestamp_seconds",] == NOW.timestamp()
    assert found["archive_reachable",] == 1


@pytest.mark.parametrize(("channels", "newest"), [([], 2), (["ir", "wv"], 2), (["ir"], 5)])
def test_an_archive_is_as_fresh_as_the_channel_that_came_last(tmp_path, channels, newest):
    url, kind, start = str(tmp_path / "two.zarr"), "brightness_temperature", datetime(2024, 6, 3, tzinfo=UTC)
    archive = Archive.create(url, grid=Grid(np.arange(8) * 2000.0, -np.arange(6) * 2000.0, CRS), origin=start,
                             channels={"ir": kind, "wv": kind}, cadence_minutes=30, years=1)  # fmt: skip
    archive.record([Stored(slot, "ir", Status.COMPLETE) for slot in range(6)])
    archive.record([Stored(slot, "wv", Status.COMPLETE) for slot in range(3)])
    config = MonitorConfig(
        name="tiny", archive=url, channels=channels, forecasts=str(tmp_path / "no"), folder=str(tmp_path)
    )
    found = read(write_metrics(config, {}, NOW))
    assert found["archive_newest_slot_timestamp_seconds",] == start.timestamp() + 1800 * newest


def test_a_nowcast_that_cannot_be_read_is_left_out(tmp_path):
    config = MonitorConfig(
        name="tiny", archive=str(tmp_path / "no.zarr"), forecasts=str(tmp_path / "out"), folder=str(tmp_path)
    )
    whole, empty, torn = (tmp_path / "out" / f"forecast_20240603T{hour}00Z.zarr" for hour in (21, 22, 23))
    for place in (whole, empty, torn):
        place.mkdir(parents=True)
    (whole / "zarr.json").write_text('{"attributes": {"learner": "maml"}}')
    (torn / "zarr.json").touch()
    found = read(write_metrics(config, {}, NOW))
    assert found["nowcasts",] == 1
    assert found["nowcast_newest_init_timestamp_seconds",] == datetime(2024, 6, 3, 21, tzinfo=UTC).timestamp()


def test_while_the_archives_bucket_is_away_the_rest_is_told(tmp_path, monkeypatch):
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(bucket, "TRIES", 1)
    out, told = tmp_path / "out", []
    (out / "forecast_20240603T2100Z.zarr").mkdir(parents=True)
    (out / "forecast_20240603T2100Z.zarr" / "zarr.json").write_text('{"attributes": {"learner": "maml"}}')
    report = SimpleNamespace(message=told.append)
    config = MonitorConfig(name="tiny", archive="s3://archives/a.zarr", forecasts=str(out), folder=str(tmp_path))
    found = read(write_metrics(config, {"ingest": 3}, NOW, report))
    assert found["archive_reachable",] == 0
    assert (found["flow_runs_failed", "ingest"], found["nowcasts",]) == (3, 1)
    assert not [name for name, *_ in found if name in ("archive_slots", "archive_newest_slot_timestamp_seconds")]
    [line] = told
    assert line.startswith("no metrics of the archive: s3://archives/a.zarr cannot be reached")


def test_before_anything_is_there_the_file_says_so_and_replaces_the_old_one(tmp_path):
    config = MonitorConfig(
        name="tiny", archive=str(tmp_path / "no.zarr"), forecasts=str(tmp_path / "no"), folder=str(tmp_path)
    )
    for _ in range(2):
        found = read(write_metrics(config, {}, NOW))
    nothing = {("archive_reachable",): 1, ("nowcasts",): 0, ("nowcasts_verified",): 0}
    assert found == {("monitor_timestamp_seconds",): NOW.timestamp(), **nothing}
    assert [path.name for path in tmp_path.iterdir()] == ["fewcast_tiny.prom"]


def test_channels_that_the_archive_lacks_are_told_in_one_line_and_the_rest_is_measured(tmp_path):
    class Told(Silent):
        lines: ClassVar[list[str]] = []

        def message(self, text: str) -> None:
            self.lines.append(text)

    url, kind, start = str(tmp_path / "one.zarr"), "brightness_temperature", datetime(2024, 6, 3, tzinfo=UTC)
    Archive.create(url, grid=Grid(np.arange(8) * 2000.0, -np.arange(6) * 2000.0, CRS), origin=start,
                   channels={"ir": kind}, cadence_minutes=30, years=1)  # fmt: skip
    config = MonitorConfig(
        name="tiny", archive=url, channels=["ir", "wv"], forecasts=str(tmp_path / "no"), folder=str(tmp_path)
    )
    found = read(write_metrics(config, {"ingest": 2}, NOW, Told()))
    [line] = Told.lines
    assert "has not all of monitor.channels: found no wv; correct monitor.channels" in line
    assert found["archive_reachable",] == 0
    assert found["flow_runs_failed", "ingest"] == 2
