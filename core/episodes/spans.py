"""When: the slots that each split may use, and the spans of time that contexts are made of."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np

from core.config import EpisodesConfig, SplitConfig, TimeRange
from core.episodes.lattice import SPLITS
from core.errors import FewcastError

SEASONS = ("DJF", "MAM", "JJA", "SON")


@dataclass(frozen=True)
class Span:
    """A span of slots [start, stop) in one season; December belongs to the winter of the year that follows."""

    start: int
    stop: int
    season: str
    year: int


@dataclass(frozen=True)
class Timing:
    """The windows' shape in slots: frames at start, start + step, ..., start + reach."""

    step: int
    inputs: int
    targets: int
    gap: int
    cadence_minutes: int

    @property
    def reach(self) -> int:
        """Slots from a window's first frame to its last."""
        return (self.inputs + self.targets - 1) * self.step

    @property
    def offsets(self) -> np.ndarray:
        """Slots of a window's frames after its start."""
        return np.arange(self.inputs + self.targets) * self.step

    @property
    def lead_minutes(self) -> tuple[int, ...]:
        """Lead times of the targets in minutes."""
        return tuple((i + 1) * self.step * self.cadence_minutes for i in range(self.targets))


def timing(config: EpisodesConfig, archive_cadence_minutes: int) -> Timing:
    """Windows in slots of an archive; raises `FewcastError` where the cadence is not a multiple of the archive's."""
    cadence = config.cadence_minutes or archive_cadence_minutes
    if cadence % archive_cadence_minutes:
        raise FewcastError(
            f"frames every {cadence} minutes cannot be taken from the archive",
            found=f"slots every {archive_cadence_minutes} minutes",
            mend="set episodes.cadence_minutes to a multiple of that, or to 0",
        )
    return Timing(
        step=cadence // archive_cadence_minutes,
        inputs=config.input_frames,
        targets=config.target_frames,
        gap=-(-config.gap_minutes // archive_cadence_minutes),
        cadence_minutes=archive_cadence_minutes,
    )


def split_slots(split: SplitConfig, times: np.ndarray) -> dict[str, np.ndarray]:
    """Which slots each split may use: bool (time,) by split name.

    Test keeps its times; validation gives way to test, and training to both, by the buffer. Raises `FewcastError`
    for times that two splits both claim.
    """
    claimed = {name: within(getattr(split, name), times) for name in SPLITS}
    for i, first in enumerate(SPLITS):
        for second in SPLITS[i + 1 :]:
            both = claimed[first] & claimed[second]
            if both.any():
                raise FewcastError(
                    f"{first} and {second} claim the same times",
                    found=f"{both.sum()} common slots from {times[both][0]}",
                    mend=f"separate episodes.split.{first} and episodes.split.{second}",
                )
    buffer = np.timedelta64(split.buffer_minutes, "m")
    if split.buffer_minutes:
        claimed["validation"] &= ~_near(split.test, times, buffer)
        claimed["train"] &= ~_near(split.test, times, buffer) & ~_near(split.validation, times, buffer)
    return claimed


def spans(
    kind: Literal["season", "month", "hours"], ranges: list[TimeRange], times: np.ndarray, hours: float, stride: float
) -> list[Span]:
    """The spans of a split's ranges, in order: hours begin anew with every range, the rest follows the calendar."""
    found: list[Span] = []
    for one in sorted(ranges, key=lambda r: r.start):
        start, stop = (int(np.searchsorted(times, _instant(t))) for t in (one.start, one.end))
        if stop <= start:
            continue
        if kind == "hours":
            found += _sliding(start, stop, times, hours, stride or hours / 4)
        else:
            found += _calendar(kind, times, start, stop)
    return list(dict.fromkeys(found))


def season_of(time: np.datetime64) -> tuple[str, int]:
    """Meteorological season and its year: December 2021 is in DJF 2022."""
    year, month = int(time.astype("M8[Y]").astype(int)) + 1970, int(time.astype("M8[M]").astype(int)) % 12 + 1
    return SEASONS[month % 12 // 3], year + (month == 12)


def _calendar(kind: str, times: np.ndarray, start: int, stop: int) -> list[Span]:
    months = times[start:stop].astype("M8[M]").astype(np.int64)
    labels = (months + 1) // 3 if kind == "season" else months
    spans_ = []
    for label in np.unique(labels):
        # The whole calendar span, so that a context keeps its name and bounds however its split's ranges cut it.
        first, last = (label * 3 - 1, label * 3 + 2) if kind == "season" else (label, label + 1)
        bounds = np.array([first, last]).astype("M8[M]").astype(times.dtype)
        begin, end = (int(i) for i in np.searchsorted(times, bounds))
        spans_.append(Span(begin, end, *season_of(times[begin])))
    return spans_


def _sliding(start: int, stop: int, times: np.ndarray, hours: float, stride: float) -> list[Span]:
    slot = float((times[1] - times[0]) / np.timedelta64(1, "s")) / 3600
    length, step = max(1, round(hours / slot)), max(1, round(stride / slot))
    begins = range(start, max(stop - length, start) + 1, step)
    found = [Span(begin, min(begin + length, stop), *season_of(times[begin])) for begin in begins]
    rest = found[-1].start + step
    if found[-1].stop < stop and rest < stop:
        found.append(Span(rest, stop, *season_of(times[rest])))
    return found


def _instant(time: datetime) -> np.datetime64:
    return np.datetime64(time.replace(tzinfo=None), "ns")


def within(ranges: list[TimeRange], times: np.ndarray) -> np.ndarray:
    """Which times lie in any of the ranges: bool (time,)."""
    return np.any([(times >= _instant(r.start)) & (times < _instant(r.end)) for r in ranges], axis=0)


def _near(ranges: list[TimeRange], times: np.ndarray, buffer: np.timedelta64) -> np.ndarray:
    return np.any([(times > _instant(r.start) - buffer) & (times < _instant(r.end) + buffer) for r in ranges], axis=0)
