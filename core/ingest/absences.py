"""Slots without a granule, and when they count as absent at the source."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from core.archive import Status, Stored
from core.config import IngestConfig
from core.satellite.granule import Granule

# A source that shows nothing for longer than this is silent, or the clock is ahead of it.
SILENT = timedelta(days=1)


class Absences:
    """The slots of one run that no granule was listed for.

    They wait until they are old enough, and until the source has shown something later: a clock that is ahead would
    record the future as absent.
    """

    def __init__(self, config: IngestConfig, shown: datetime, now: datetime) -> None:
        self._now: np.datetime64 = np.datetime64(now.replace(tzinfo=None), "s")
        self._shown: np.datetime64 = np.datetime64(shown.replace(tzinfo=None), "s")
        self._deadline = self._now - np.timedelta64(config.grace_minutes, "m")
        self._waiting: list[tuple[np.datetime64, Stored]] = []

    def listed(self, granules: Sequence[Granule]) -> None:
        """Granules that the source has, by time."""
        if granules:
            self._shown = max(self._shown, granules[-1].time)

    def add(self, slot: int, moment: np.datetime64, channel: str) -> None:
        if moment < self._deadline:
            self._waiting.append((moment, Stored(slot, channel, Status.ABSENT)))

    def take(self) -> list[Stored]:
        """Those that are absent for all that is known by now."""
        due = [stored for moment, stored in self._waiting if moment <= self._shown]
        self._waiting = [item for item in self._waiting if item[0] > self._shown]
        return due

    @property
    def silence(self) -> str:
        """What to say where the source shows nothing near the clock's time; empty where it does."""
        if self._now - self._shown <= SILENT:
            return ""
        shown, now = (str(moment.astype("datetime64[m]")).replace("T", " ") for moment in (self._shown, self._now))
        return f"the source shows nothing after {shown} when the clock says {now} UTC: it is silent, or the clock ahead"
