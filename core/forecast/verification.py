"""Past forecasts against what came: scores by lead time as soon as the truth is in the archive, and their rolling mean.

`OUTPUT/verification/YYYYMMDD.json` holds the sums of each forecast that started on that day, `rolling.json` the scores
of the newest span. A lead time is scored once; a forecast that was made anew is scored anew.
"""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from core.archive import SERVED, Archive
from core.archive.shard import DamagedError
from core.config import ForecastConfig
from core.errors import FewcastError
from core.forecast.dataset import IDENTITY
from core.forecast.folder import VERIFICATION, Folder, read_attributes
from core.report import Report, Silent
from core.satellite.granule import Grid
from core.verify.crps import ensemble_crps

COVERED = 1.6449  # standard deviations on either side of the mean that hold 90 % of a Gaussian


class UnscorableError(FewcastError):
    """A forecast that is damaged, or not of this archive; the others can be scored."""

    def __init__(self, place: Path, found: str) -> None:
        super().__init__(f"the forecast {place} cannot be scored", found=found, mend="delete it, or make it again")


@dataclass(frozen=True)
class Verified:
    """What a verification did, and the rolling scores that it left."""

    forecasts: int
    scored: int  # forecasts of which at least one lead time was scored now
    lead_times: int  # scored now
    waiting: int  # lead times whose truth is not there
    rolling: dict[str, Any]
    url: str

    @property
    def markdown(self) -> str:
        """The rolling scores as a table."""
        rows = self.rolling.get("rows", [])
        if not rows:
            return "No lead time has been verified yet: the truth has not come."
        head = ("channel", "lead (min)", "forecasts", "CRPS", "persistence", "better by", "90 % interval held", "bias")
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        lines += [
            f"| {r['channel']} | {r['lead_minutes']} | {r['forecasts']} | {_cell(r['crps'], '.4g')} "
            f"| {_cell(r['crps_persistence'], '.4g')} | {_cell(r['skill'], '.1%')} | {_cell(r['coverage90'], '.1%')} "
            f"| {_cell(r['bias'], '+.3g')} |"
            for r in rows
        ]
        span = f"{self.rolling['forecasts']} forecasts from {self.rolling['first']} to {self.rolling['last']} UTC"
        return f"{span}\n\n" + "\n".join(lines)


def verify_forecasts(config: ForecastConfig, *, report: Report | None = None) -> Verified:
    """Score every lead time of the folder's forecasts whose truth has come since, and write the rolling scores anew.

    A forecast that cannot be scored is told of, and the rest are scored; one that is fully scored is not opened again.
    """
    report = report or Silent()
    folder, archive = Folder(config.output), Archive.open(config.archive)
    forecasts = folder.forecasts()
    days: dict[str, dict[str, Any]] = {}
    scored = lead_times = waiting = 0
    for done, (init_time, place) in enumerate(forecasts, 1):
        day = str(init_time)[:10].replace("-", "")
        if day not in days:
            days[day] = _read(folder.path / VERIFICATION / f"{day}.json")
        book = days[day]
        attributes = read_attributes(place)
        own = {key: attributes.get(key) for key in IDENTITY}
        entry = book.get(str(init_time))
        if entry is None or entry["identity"] != own:
            entry = {"identity": own, "leads": {}}
        if len(entry["leads"]) != entry.get("lead_times"):
            try:
                found, missing = score(place, archive, skip=set(entry["leads"]))
            except (UnscorableError, DamagedError) as error:
                report.message(str(error))
            else:
                waiting, scored, lead_times = waiting + missing, scored + bool(found), lead_times + len(found)
                leads = entry["leads"] | found
                now = {"identity": own, "leads": leads, "lead_times": len(leads) + missing}
                if leads and now != entry:
                    book[str(init_time)] = now
                    _write(folder.path / VERIFICATION / f"{day}.json", book)
        report.progress(done, len(forecasts), "forecasts")
    rolling = roll(folder, config.verify_hours)
    if rolling:
        _write(folder.path / VERIFICATION / "rolling.json", rolling)
    return Verified(len(forecasts), scored, lead_times, waiting, rolling, str(folder.path / VERIFICATION))


def score(place: Path, archive: Archive, skip: set[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """Sums over the observed pixels of each lead time and channel whose truth is there: {minutes: {channel: sums}}.

    Lead times in `skip` are left out; the second value counts those whose truth is not there. CRPS is the fair one of
    the members, persistence is the frame that the forecast started from. Raises `UnscorableError` for what is wrong
    with the forecast, and the archive's own errors for what is wrong with the truth.
    """
    with _reading(place):
        data = xr.open_zarr(place, consolidated=False, mask_and_scale=False)  # no file stays open
        minutes = (data["lead_time"].values / np.timedelta64(1, "m")).astype(int)
        channels = [str(name) for name in data["channel"].values]
        init, valid, y, x = (data[name].values for name in ("init_time", "valid_time", "y", "x"))
        follow = np.array_equal(valid, init + data["lead_time"].values) and (np.diff(minutes, prepend=0) > 0).all()
    if not follow:  # a lost file of times reads as zeros
        raise UnscorableError(place, "times that do not follow from its start")
    if lacking := [name for name in channels if name not in archive.channels]:
        raise UnscorableError(place, f"channels that {archive.url} lacks: {', '.join(lacking)}")
    columns = [archive.channels.index(name) for name in channels]
    leads = [i for i, lead in enumerate(minutes) if str(lead) not in skip]
    there = [i for i in leads if _served(archive, valid[i], columns)]
    if not there:
        return {}, len(leads)
    window, start_slot = _window(y, x, archive.grid), _slot(archive, init)
    if window is None or start_slot is None:
        raise UnscorableError(place, f"an area or a start that is not of {archive.url}")
    start = _frame(archive, start_slot, channels, window)
    found: dict[str, dict[str, Any]] = {}
    for lead in there:  # one at a time: all members at all lead times are too large for the memory of a small machine
        truth = _frame(archive, archive.slot(valid[lead].astype("M8[s]")), channels, window)
        found[str(minutes[lead])] = dict(
            zip(channels, _scored(place, data.isel(lead_time=lead), truth, start), strict=True)
        )
    if not all(np.isfinite(value) for sums in found.values() for one in sums.values() for value in one.values()):
        raise UnscorableError(place, "values that are not finite where the truth is")
    return found, len(leads) - len(there)


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Everything is caught on purpose: a lost byte surfaces as whatever Zarr, its codecs or xarray make of it."""
    try:
        yield
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise UnscorableError(place, f"{type(error).__name__}: {words}") from error


def _scored(
    place: Path, data: xr.Dataset, truth: NDArray[np.float32], start: NDArray[np.float32]
) -> list[dict[str, float]]:
    """Sums of one lead time, channel by channel."""
    with _reading(place):
        members, mean, spread = (_values(data[name]) for name in ("members", "mean", "spread"))
    return [_sums(truth[c], start[c], torch.from_numpy(members[:, c]), mean[c], spread[c]) for c in range(len(truth))]


def _values(field: xr.DataArray) -> NDArray[np.float32]:
    """A field in physical units, NaN where it is lost; xarray would decode it in float64."""
    codes, packing = field.values, field.attrs
    values = codes.astype(np.float32)
    values *= np.float32(packing.get("scale_factor", 1))
    values += np.float32(packing.get("add_offset", 0))
    values[codes == packing.get("_FillValue")] = np.nan
    return values


def _sums(
    truth: NDArray[np.float32], start: NDArray[np.float32], members: torch.Tensor, mean: NDArray[np.float32],
    spread: NDArray[np.float32],
) -> dict[str, float]:  # fmt: skip
    # Missing in every field: no input frame had it, though the start may have been completed since.
    unsaid = np.isnan(mean) & np.isnan(spread) & members.isnan().all(0).numpy()
    seen = np.isfinite(truth) & np.isfinite(start) & ~unsaid
    t, error = truth[seen], mean[seen] - truth[seen]
    crps = ensemble_crps(members[:, torch.from_numpy(seen)].contiguous(), torch.from_numpy(t))
    sums = {
        "pixels": seen.sum(),
        "crps": crps.double().sum(),
        "crps_persistence": np.abs(start[seen] - t).sum(dtype=float),
        "bias": error.sum(dtype=float),
        "squared_error": np.square(error).sum(dtype=float),
        "variance": np.square(spread[seen]).sum(dtype=float),
        "coverage90": (np.abs(error) <= COVERED * spread[seen]).sum(),
    }
    return {name: float(value) for name, value in sums.items()}


def roll(folder: Folder, hours: float) -> dict[str, Any]:
    """Scores of the forecasts that start within so many hours of the newest verified one, by channel and lead time."""
    entries: dict[np.datetime64, dict[str, Any]] = {}
    for path in sorted((folder.path / VERIFICATION).glob("[0-9]*.json"))[-2 - int(hours // 24) :]:
        entries |= {np.datetime64(moment, "s"): entry["leads"] for moment, entry in _read(path).items()}
    if not entries:
        return {}
    newest = max(entries)
    chosen = {t: leads for t, leads in entries.items() if t > newest - np.timedelta64(int(hours * 3600), "s")}
    total: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for leads in chosen.values():
        for lead, channels in leads.items():
            for channel, sums in channels.items():
                state = total[channel, int(lead)]
                state["forecasts"] += 1
                for name, value in sums.items():
                    state[name] += value
    channels = list(dict.fromkeys(channel for channel, _ in total))
    order = sorted(total, key=lambda key: (channels.index(key[0]), key[1]))
    rows = [{"channel": c, "lead_minutes": lead, **_metrics(total[c, lead])} for c, lead in order]
    return {
        "hours": hours,
        "forecasts": len(chosen),
        "first": str(min(chosen).astype("M8[m]")),
        "last": str(newest.astype("M8[m]")),
        "channels": channels,
        "rows": rows,
    }


def _metrics(state: Mapping[str, float]) -> dict[str, float | None]:
    """None is what is undefined: all of no pixels, and the skill against a persistence without error."""
    names = ("crps", "crps_persistence", "bias", "coverage90", "skill", "rmse", "spread")
    found: dict[str, float | None] = {"forecasts": int(state["forecasts"]), **dict.fromkeys(names)}
    if pixels := state["pixels"]:
        found |= {name: state[name] / pixels for name in names[:4]}
        found |= {name: float(np.sqrt(state[square] / pixels)) for name, square in
                  (("rmse", "squared_error"), ("spread", "variance"))}  # fmt: skip
        if state["crps_persistence"]:
            found["skill"] = 1 - state["crps"] / state["crps_persistence"]
    return found


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form).replace("%", " %")


def _served(archive: Archive, time: np.datetime64, columns: list[int]) -> bool:
    slot = _slot(archive, time)
    return slot is not None and bool(np.isin(archive.status_of([slot])[0, columns], SERVED).all())


def _slot(archive: Archive, time: np.datetime64) -> int | None:
    try:
        return archive.slot(time.astype("M8[s]"))
    except ValueError:
        return None


def _window(y: NDArray[np.float64], x: NDArray[np.float64], grid: Grid) -> tuple[slice, slice] | None:
    """Where the forecast lies in the archive, from their coordinates."""
    top, left = int(np.abs(grid.y - y[0]).argmin()), int(np.abs(grid.x - x[0]).argmin())
    window = slice(top, top + len(y)), slice(left, left + len(x))
    return window if np.array_equal(grid.y[window[0]], y) and np.array_equal(grid.x[window[1]], x) else None


def _frame(archive: Archive, slot: int, channels: list[str], window: tuple[slice, slice]) -> NDArray[np.float32]:
    """One frame (C, Y, X) in physical units."""
    of = archive.kind_of
    frames = {kind: archive.read(kind, [slot], *window)[0] for kind in {of[name] for name in channels}}
    return np.stack([frames[of[name]][archive.kinds[of[name]].index(name)] for name in channels])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (OSError, ValueError):
        return {}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(json.dumps(values))
    beside.replace(path)
