"""What an archive holds, for a person: coverage by day, gaps, reasons, size, ranges and a quick look."""

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.archive.archive import Archive
from core.archive.layout import SERVED, Status
from core.archive.packing import unpack
from core.archive.shard import MISSING, Codes, DamagedError
from core.satellite.granule import UNITS, Reason

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLED_SLOTS, SAMPLED_PIXELS, LONGEST_LIST = 24, 1 << 16, 20
PICTURE_PIXELS = 1 << 20
NO_DATA_COLOUR = "lightsteelblue"


@dataclass(frozen=True)
class Gap:
    """A run of slots, between the first and the last that are served, of which none is served."""

    channel: str
    first: np.datetime64
    last: np.datetime64
    slots: int


@dataclass(frozen=True)
class Inspection:
    """The state of an archive at one moment, or of its newest recorded days (`last_days`; 0 for all of it).

    `ranges` are (least, median, greatest) of a sample of frames, of which `unreadable` are damaged; the median is that
    of some of their pixels. `calendar` is the share (channel) of each UTC day's slots that is served, of all days from
    the first slot of which anything is known to the last.
    """

    url: str
    last_days: int
    channels: tuple[str, ...]
    shape: tuple[int, int]
    cadence_minutes: int
    first: np.datetime64 | None
    last: np.datetime64 | None
    counts: dict[str, dict[str, int]]
    reasons: dict[str, int]
    out_of_range_pixels: int
    gaps: tuple[Gap, ...]
    stored_bytes: int
    raw_bytes: int
    ranges: dict[str, tuple[float, float, float]]
    unreadable: int
    units: dict[str, str]
    calendar: dict[str, NDArray[np.float64]] = field(repr=False)

    @property
    def markdown(self) -> str:
        """The whole as a page of tables."""
        part = f", its newest {self.last_days} recorded days alone" if self.last_days else ""
        ratio = self.raw_bytes / self.stored_bytes if self.stored_bytes else 0.0
        span = f"{_minute(self.first)} to {_minute(self.last)} UTC" if self.first is not None else "nothing yet"
        lines = [
            f"**{self.url}**{part}: {self.shape[0]} x {self.shape[1]} pixels every {self.cadence_minutes} minutes, "
            f"{span}; {self.stored_bytes / 1e6:.1f} MB stored, {ratio:.1f} times smaller than 16-bit values; "
            f"{self.out_of_range_pixels} pixels dropped for their value",
            "",
            "| channel | "
            + " | ".join(status.name.lower() for status in Status if status)
            + " | least | median | greatest |",
            "|---|" + "---:|" * (len(Status) + 2),
        ]
        for name in self.channels:
            numbers = [str(self.counts[name][status.name.lower()]) for status in Status if status]
            values = (
                [f"{value:.2f} {self.units[name]}" for value in self.ranges[name]] if name in self.ranges else ["-"] * 3
            )
            lines.append(f"| {name} | " + " | ".join(numbers + values) + " |")
        if self.unreadable:
            lines += ["", f"{self.unreadable} of the sampled frames are damaged: `fewcast archive repair` mends it"]
        if self.reasons:
            lines += ["", "| reason | frames |", "|---|---:|"]
            lines += [f"| {name} | {count} |" for name, count in sorted(self.reasons.items())]
        if self.gaps:
            lines += ["", "| gap | from | to | slots |", "|---|---|---|---:|"]
            longest = sorted(self.gaps, key=lambda gap: -gap.slots)[:LONGEST_LIST]
            lines += [f"| {g.channel} | {_minute(g.first)} | {_minute(g.last)} | {g.slots} |" for g in longest]
            if len(self.gaps) > LONGEST_LIST:
                lines.append(f"| and {len(self.gaps) - LONGEST_LIST} shorter ones | | | |")
        lines += ["", "| day | served |", "|---|---|"]
        for some, group in groupby(self.calendar.items(), lambda day: bool(day[1].any())):
            days = list(group)
            if not some and len(days) > 1:
                days = [(f"{days[0][0]} to {days[-1][0]}", days[0][1])]
            for day, share in days:
                mean = float(share.mean())
                lines.append(f"| {day} | {'█' * round(20 * mean):░<20} {100 * mean:.0f} % |")
        return "\n".join(lines) + "\n"


def inspect(url: str, *, last_days: int = 0) -> Inspection:
    """Look at an archive without changing it. Raises `FewcastError` where there is none.

    With `last_days` it looks at the newest recorded days alone and estimates their size from a sample, which is quick
    however long the archive is.
    """
    archive = Archive.open(url)
    recorded = archive.days.recorded()[-last_days:]
    counts = {name: dict.fromkeys((status.name.lower() for status in Status), 0) for name in archive.channels}
    reasons: Counter[str] = Counter()
    known: list[int] = []
    lost = 0
    served_slots: dict[str, list[int]] = {name: [] for name in archive.channels}
    for day in recorded:
        begin = day * archive.slots_per_day
        rows = min(archive.slots_per_day, len(archive.times) - begin)
        status, reason = archive.days.day("status", day)[:rows], archive.days.day("reason", day)[:rows]
        lost += int(archive.days.day("out_of_range", day)[:rows].sum())
        reasons.update(_name(code) for code in reason[reason != Reason.NONE])
        served = np.isin(status, SERVED)
        known += (np.flatnonzero((status != Status.UNSEEN).any(1)) + begin).tolist()
        for column, name in enumerate(archive.channels):
            for code, number in zip(*np.unique(status[:, column], return_counts=True), strict=True):
                counts[name][Status(int(code)).name.lower()] += int(number)
            served_slots[name] += (np.flatnonzero(served[:, column]) + begin).tolist()
    ends = [slots[i] for slots in served_slots.values() if slots for i in (0, -1)]
    height, width = archive.shape
    frames = sum(
        len({s for name in names for s in served_slots[name]}) * len(names) for names in archive.kinds.values()
    )
    samples = {name: _sampled_range(archive, name, slots) for name, slots in served_slots.items() if slots}
    return Inspection(
        url=url,
        last_days=last_days,
        channels=archive.channels,
        shape=archive.shape,
        cadence_minutes=archive.cadence_minutes,
        first=archive.times[min(ends)] if ends else None,
        last=archive.times[max(ends)] if ends else None,
        counts=counts,
        reasons=dict(reasons),
        out_of_range_pixels=lost,
        gaps=tuple(gap for name in archive.channels for gap in _gaps(archive, name, served_slots[name])),
        stored_bytes=_sampled_bytes(archive, served_slots) if last_days else _stored_bytes(archive),
        raw_bytes=frames * height * width * 2,
        ranges={name: found for name, (found, _) in samples.items()},
        unreadable=sum(damaged for _, damaged in samples.values()),
        units={name: UNITS[kind] for name, kind in archive.kind_of.items()},
        calendar=_calendar(archive, recorded[0] * archive.slots_per_day, known, served_slots) if known else {},
    )


def quick_look(url: str, channels: int = 4) -> "Figure":
    """The newest served frame of the first few channels; what is missing is blue."""
    from matplotlib import colormaps  # an ingest that finds nothing new draws nothing
    from matplotlib.figure import Figure

    archive = Archive.open(url)
    names = archive.channels[:channels]
    height, width = archive.shape
    figure = Figure(figsize=(4.6 * len(names), min(max(4 * height / width, 1.5), 8) + 0.3), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.set_axis_off()
        slot = _newest(archive, name)
        if slot is None:
            axis.set_title(f"{name}: nothing yet")
            continue
        kind, codes = archive.kind_of[name], _frame(archive, name, slot)
        if codes is None:
            axis.set_title(f"{name}: the newest frame is damaged")
            continue
        cold_is_white = "gray_r" if kind == "brightness_temperature" else "gray"
        step = math.ceil(math.sqrt(codes.size / PICTURE_PIXELS))
        values = unpack(codes[::step, ::step], kind)
        image = axis.imshow(
            values, cmap=colormaps[cold_is_white].with_extremes(bad=NO_DATA_COLOUR), interpolation="nearest"
        )
        units = "" if UNITS[kind] == "1" else f" ({UNITS[kind]})"
        figure.colorbar(image, ax=axis, fraction=0.05, pad=0.02, label=kind.replace("_", " ") + units)
        axis.set_title(f"{name} {_minute(archive.times[slot])} UTC")
    return figure


def _calendar(
    archive: Archive, begin: int, known: list[int], served: dict[str, list[int]]
) -> dict[str, NDArray[np.float64]]:
    """Of the slots from `begin` on; a day of the archive may begin at any hour, and is no UTC day."""
    dates = archive.times[begin:].astype("datetime64[D]")
    day = (dates - dates[0]).astype(int)
    counts = np.stack([np.bincount(day[np.array(s, int) - begin], minlength=day[-1] + 1) for s in served.values()], 1)
    shares = counts / np.bincount(day)[:, None]
    return {str(dates[0] + n): shares[n] for n in range(day[known[0] - begin], day[known[-1] - begin] + 1)}


def _newest(archive: Archive, name: str) -> int | None:
    column = archive.channels.index(name)
    for day in reversed(archive.days.recorded()):
        rows = np.flatnonzero(np.isin(archive.days.day("status", day)[:, column], SERVED))
        if rows.size:
            return int(rows[-1]) + day * archive.slots_per_day
    return None


def _gaps(archive: Archive, name: str, slots: list[int]) -> list[Gap]:
    """Holes wider than the usual step, which is that of the data and may be a multiple of the archive's cadence."""
    steps = np.diff(slots)
    if not steps.size:
        return []
    usual = int(np.median(steps))
    return [
        Gap(name, archive.times[slots[i] + usual], archive.times[slots[i + 1] - usual], int(steps[i]) // usual - 1)
        for i in np.flatnonzero(steps >= 2 * usual)
    ]


def _stored_bytes(archive: Archive) -> int:
    return sum(size for kind in archive.kinds for _, size in archive.objects.keys(f"{kind}/c"))


def _sampled_bytes(archive: Archive, served: dict[str, list[int]]) -> int:
    total = 0.0
    for kind, names in archive.kinds.items():
        slots = sorted({slot for name in names for slot in served[name]})
        picked = _sample(slots)
        sizes = [size for slot in picked for _, size in archive.objects.keys(f"{kind}/c/{slot}")]
        total += len(slots) * sum(sizes) / max(len(sizes), 1)
    return round(total)


def _sample(slots: list[int]) -> list[int]:
    if not slots:
        return []
    return [slots[place] for place in np.unique(np.linspace(0, len(slots) - 1, SAMPLED_SLOTS).astype(int))]


def _frame(archive: Archive, name: str, slot: int) -> Codes | None:
    """The codes (Y, X) of one frame; None where what is stored is damaged."""
    kind = archive.kind_of[name]
    position = archive.kinds[kind].index(name)
    try:
        codes = archive.read_shard(kind, slot, slice(None), slice(None), slice(position, position + 1))
    except DamagedError:
        return None
    return np.full(archive.shape, MISSING, np.uint16) if codes is None else codes[0]


def _sampled_range(archive: Archive, name: str, slots: list[int]) -> tuple[tuple[float, float, float], int]:
    """(least, median, greatest) of some frames, one in memory at a time, and how many of these are damaged."""
    kind, damaged = archive.kind_of[name], 0
    ends: list[int] = []
    some: list[Codes] = []
    for slot in _sample(slots):
        codes = _frame(archive, name, slot)
        if codes is None:
            damaged += 1
            continue
        present = codes[codes != MISSING]
        if present.size:
            ends += [int(present.min()), int(present.max())]
            some.append(present[:: present.size // SAMPLED_PIXELS + 1].copy())
    if not ends:
        return (np.nan, np.nan, np.nan), damaged
    least, greatest = unpack(np.array([min(ends), max(ends)], np.uint16), kind)
    return (float(least), float(np.median(unpack(np.concatenate(some), kind))), float(greatest)), damaged


def _name(code: int) -> str:
    return Reason(int(code)).name.lower() if int(code) in set(Reason) else f"code {code}"


def _minute(time: np.datetime64 | None) -> str:
    return "-" if time is None else str(time.astype("datetime64[m]")).replace("T", " ")
