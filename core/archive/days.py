"""What is known of each slot and channel, in small objects of one day each, replaced whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.archive.layout import NO_TIME, SERVED, Status
from core.archive.objects import Objects
from core.satellite.granule import Kind, Reason

TABLES: Mapping[str, type[np.generic]] = {"status": np.uint8, "reason": np.uint8, "out_of_range": np.uint32}


@dataclass(frozen=True)
class Stored:
    """What became of one slot of one channel: what to record about it once its frame is durable."""

    slot: int
    channel: str
    status: Status
    reason: Reason = Reason.NONE
    out_of_range: int = 0
    observation_time: np.datetime64 | None = None


class Days:
    """The day objects of an archive. Reads are always fresh; `record` wants one writer at a time."""

    def __init__(self, objects: Objects, kind_of: Mapping[str, Kind], slots: int, slots_per_day: int) -> None:
        self.objects, self.channels = objects, tuple(kind_of)
        self.slots, self.slots_per_day = slots, slots_per_day
        # The columns of what was observed: the sun's elevation is computed.
        self._observed = [column for column, kind in enumerate(kind_of.values()) if kind != "solar_elevation"]

    def day(self, name: str, day: int) -> NDArray[Any]:
        """One day's table (slot of the day, channel)."""
        shape = (self.slots_per_day, len(self.channels))
        data = self.objects.get(f"{name}/c/{day}/0")
        if data is None:
            return np.zeros(shape, TABLES[name])
        return np.frombuffer(data, np.dtype(TABLES[name]).newbyteorder("<")).reshape(shape).astype(TABLES[name])

    def at(self, name: str, slots: Iterable[int]) -> NDArray[Any]:
        """Rows (T, channel) of a table for some slots."""
        days: dict[int, NDArray[Any]] = {}
        rows = []
        for slot in slots:
            day, row = divmod(slot, self.slots_per_day)
            if day not in days:
                days[day] = self.day(name, day)
            rows.append(days[day][row])
        return np.array(rows, TABLES[name]).reshape(len(rows), len(self.channels))

    def table(self, name: str) -> NDArray[Any]:
        """The whole table (time, channel); only the days that exist are read."""
        table = np.zeros((self.slots, len(self.channels)), TABLES[name])
        for day in self.recorded(name):
            rows = table[day * self.slots_per_day : (day + 1) * self.slots_per_day]
            rows[:] = self.day(name, day)[: len(rows)]
        return table

    def recorded(self, name: str = "status") -> list[int]:
        """The days that have been recorded, in order."""
        return sorted(int(key.split("/")[2]) for key, _ in self.objects.keys(f"{name}/c"))

    def newest_complete(self, channels: Iterable[str], end: int) -> int | None:
        """The newest slot before `end` that is served in all of these channels; recorded days are read newest first."""
        columns = [self.channels.index(name) for name in channels]
        for day in reversed(self.recorded()):
            complete = np.flatnonzero(np.isin(self.day("status", day)[:, columns], SERVED).all(1))
            past = complete[complete + day * self.slots_per_day < end]
            if past.size:
                return int(past[-1]) + day * self.slots_per_day
        return None

    def observation_times(self, day: int) -> NDArray[np.int64]:
        """Milliseconds since 1970 of one day's slots; `NO_TIME` where nothing was observed."""
        data = self.objects.get(f"observation_time/c/{day}")
        if data is None:
            return np.full(self.slots_per_day, NO_TIME)
        return np.frombuffer(data, "<i8").astype(np.int64)

    def record(self, stored: Iterable[Stored]) -> None:
        """Replace the objects of each day concerned, `status` last: it is what makes the others true."""
        days: dict[int, list[Stored]] = {}
        for item in stored:
            days.setdefault(item.slot // self.slots_per_day, []).append(item)
        for day, items in sorted(days.items()):
            tables = {name: self.day(name, day) for name in TABLES}
            observed = self.observation_times(day)
            new: dict[int, dict[int, np.datetime64 | None]] = {}
            for item in items:
                row, column = item.slot % self.slots_per_day, self.channels.index(item.channel)
                tables["status"][row, column] = item.status
                tables["reason"][row, column] = item.reason
                tables["out_of_range"][row, column] = item.out_of_range
                new.setdefault(row, {})[column] = item.observation_time
            for row, moments in new.items():
                observed[row] = self._earliest(tables["status"][row], moments, int(observed[row]))
            self.objects.put(f"observation_time/c/{day}", observed.astype("<i8").tobytes())
            for name in ("out_of_range", "reason", "status"):
                table = tables[name]
                self.objects.put(f"{name}/c/{day}/0", table.astype(table.dtype.newbyteorder("<")).tobytes())

    def _earliest(self, status: NDArray[np.uint8], new: Mapping[int, np.datetime64 | None], known: int) -> int:
        """Milliseconds since 1970 of the earliest observation that a slot serves, from those of its new frames.

        What was known stays in it while any frame that is served is not new: whose it was is not recorded.
        """
        served = [column for column in self._observed if status[column] in SERVED]
        times = [int(t.astype("datetime64[ms]").astype(np.int64)) for c in served if (t := new.get(c)) is not None]
        if len(times) < len(served) and known != NO_TIME:
            times.append(known)
        return min(times, default=int(NO_TIME))
