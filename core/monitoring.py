"""What a monitoring system is told, as a Prometheus textfile: freshness, lag, gaps, failures and skill.

Moments are given as timestamps and not as ages, so that an alarm sees them grow old even if nobody writes the file.
Everything is read from what lies on disk: the file is right after a restart, and whoever made the data.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from core.archive import Archive, Status
from core.config import MonitorConfig
from core.errors import FewcastError
from core.forecast.folder import Folder, read_attributes
from core.report import Report, Silent


def write_metrics(config: MonitorConfig, failed: Mapping[str, int], now: datetime, report: Report | None = None) -> str:
    """Write `fewcast_<name>.prom` in the configured folder, whole or not at all; returns its path.

    `failed` counts the failed runs of each flow in the span that the config names.
    """
    path = Path(config.folder) / f"fewcast_{config.name}.prom"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(path), measure(config, failed, now, report or Silent()))
    return str(path)


def measure(config: MonitorConfig, failed: Mapping[str, int], now: datetime, report: Report) -> CollectorRegistry:
    """The metrics of one preset; those of what is not there yet are left out.

    So are those of what cannot be read, which `report` is told: an archive that is away must not silence the rest.
    """
    found = _Metrics(config.name)
    found.set("monitor_timestamp_seconds", "When these metrics were written.", now.timestamp())
    for flow, count in failed.items():
        found.set("flow_runs_failed", "Failed, crashed and overdue runs of the span.", count, flow=flow)
    reached = True
    try:
        if Archive.exists(config.archive):
            _archive(found, Archive.open(config.archive), config, now)
    except (FewcastError, OSError) as error:
        reached = False
        report.message(f"no metrics of the archive: {error}")
    found.set("archive_reachable", "Whether the archive's place answers, and what is there can be read.", reached)
    try:
        _forecasts(found, Folder(config.forecasts), config, now)
    except OSError as error:
        report.message(f"no metrics of the forecasts: {error}")
    return found.registry


def _archive(found: "_Metrics", archive: Archive, config: MonitorConfig, now: datetime) -> None:
    if (newest := newest_time(archive, config.channels)) is not None:
        words = "Nominal time of the newest slot all of whose channels are served."
        found.set("archive_newest_slot_timestamp_seconds", words, _seconds(newest))
    first = np.datetime64(now.replace(tzinfo=None), "s") - np.timedelta64(int(3600 * config.window_hours), "s")
    slots = np.flatnonzero((archive.times > first) & (archive.times <= np.datetime64(now.replace(tzinfo=None), "s")))
    status = archive.status_of(int(slot) for slot in slots)
    for state in Status:
        words = "Frames (slots of one channel) of the span by what is known of them; all but complete are gaps."
        found.set("archive_slots", words, int((status == state).sum()), status=state.name.lower())


def newest_time(archive: Archive, channels: Sequence[str] = ()) -> np.datetime64 | None:
    """Time of the newest slot that is served in all of these channels, if there is one; none given: the archive's."""
    if lacking := set(channels) - set(archive.channels):
        raise FewcastError(
            f"the archive {archive.url} has not all of monitor.channels",
            found=f"no {', '.join(sorted(lacking))}",
            mend="correct monitor.channels, or ingest them into another archive",
        )
    slot = archive.days.newest_complete(channels or archive.channels, len(archive.times))
    return None if slot is None else archive.times[slot]


def _forecasts(found: "_Metrics", folder: Folder, config: MonitorConfig, now: datetime) -> None:
    forecasts = [(init_time, place) for init_time, place in folder.forecasts() if read_attributes(place)]
    if forecasts:
        init_time, place = forecasts[-1]
        found.set("nowcast_newest_init_timestamp_seconds", "When the newest nowcast starts.", _seconds(init_time))
        lag = (place / "zarr.json").stat().st_mtime - _seconds(init_time)
        found.set("nowcast_lag_seconds", "From the start of the newest nowcast until it was on disk.", lag)
    first = now.timestamp() - 3600 * config.window_hours
    count = sum(_seconds(init_time) > first for init_time, _ in forecasts)
    found.set("nowcasts", "Nowcasts that start within the span.", count)
    skill = folder.skill()
    found.set("nowcasts_verified", "Nowcasts in the rolling scores.", skill.get("forecasts", 0))
    if skill:
        words = "When the newest nowcast in the rolling scores starts."
        last = np.datetime64(skill["last"])
        found.set("nowcast_verified_newest_init_timestamp_seconds", words, _seconds(last))
    for row in skill.get("rows", []):
        labels = {"channel": row["channel"], "lead_minutes": str(row["lead_minutes"])}
        for name, words in (
            ("crps", "Rolling mean CRPS, in the channel's units."),
            ("skill", "1 - CRPS / CRPS of persistence, rolling."),
            ("coverage90", "Share of pixels within the 90 % interval."),
        ):
            if row[name] is not None:  # undefined
                found.set(f"nowcast_{name}", words, row[name], **labels)


def _seconds(moment: np.datetime64) -> float:
    return float(moment.astype("M8[s]").astype(datetime).replace(tzinfo=UTC).timestamp())


class _Metrics:
    """Gauges `fewcast_...` with the label `preset`."""

    def __init__(self, preset: str) -> None:
        self.registry, self.preset = CollectorRegistry(), preset
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, words: str, value: float, **labels: str) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"fewcast_{name}", words, ("preset", *labels), registry=self.registry)
        self._gauges[name].labels(self.preset, *labels.values()).set(value)
