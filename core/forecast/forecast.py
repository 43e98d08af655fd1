"""The newest frames and a trained run to a forecast: adapt on the latest windows, draw members, write CF Zarr."""

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from core.config import ForecastConfig
from core.errors import FewcastError
from core.forecast.animation import animate
from core.forecast.dataset import forecast_dataset, identity, write_store
from core.forecast.folder import Folder, read_attributes, stamp
from core.forecast.mosaic import mosaic
from core.forecast.newest import Newest
from core.forecast.picture import forecast_picture
from core.model import Model
from core.report import Report, Silent
from core.training.run import device_of

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
ASKED = "the start that was asked for"
NAMED = 100  # starts named in one line of the log
# Tiles that the network runs on at once: on a CPU more of them no longer fit its caches, and take 1.6 times as long.
TILES_A_CALL = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True)
class Forecast:
    """What a forecast leaves: the Zarr store, its pictures, whether it was there already, and what took how long."""

    url: str
    picture: str
    animation: str
    init_time: np.datetime64
    support_init_times: tuple[np.datetime64, ...]
    skipped: bool = False
    device: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


def forecast(
    config: ForecastConfig,
    *,
    report: Report | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Forecast:
    """Adapt the run to the newest windows of the area and forecast from the newest frames.

    The same run, area, frames and settings give the same members. A forecast that is there is not made again.
    Raises `FewcastError` where the archive has no k usable frames in a row, or only older ones than the settings allow
    (but for a start that is asked for), or where an area outside the archive is asked, or another than the folder's.
    """
    report = report or Silent()
    device = device_of(config.device)
    model = Model.load(config.run, device=str(device), report=report)
    view = Newest.open(config, model)
    folder = Folder(config.output)
    folder.require_area(view.area_in_words)
    init = view.init_slot()
    init_time = view.frames.archive.times[init]
    _require_fresh(config, view, init_time, clock(), report)
    support_slots = view.support_slots(init, config.support_windows)
    support_times = tuple(view.frames.archive.times[slot] for slot in support_slots)
    place = folder.place(init_time)
    animation = str(place.with_suffix(".gif")) if config.animation else ""
    made = Forecast(str(place), str(place.with_suffix(".png")), animation, init_time, support_times, device=str(device))
    own = identity(config, model, view, init, support_slots)
    wanted = [".png", *([".gif"] if config.animation else []), *([".nc"] if config.netcdf else [])]
    if folder.holds(place, own, wanted):
        with _writing(config.output):
            folder.point_to_latest()
            report.message(f"{made.url} is up to date: skipped")
            _tell_superseded(config, view, init, folder, report)
        return replace(made, skipped=True)
    with _timed(made, "adapt"):
        report.message(f"adapting to {len(support_slots)} windows before {init_time.astype('M8[m]')}")
        support = view.support(support_slots)
        steps = None if support_slots else 0
        posterior = model.adapt(replace(support, x=_fast(support.x)), seed=config.seed, steps=steps)
    codes = view.inputs(init)
    with _timed(made, "members"):
        # Adapting keeps the arithmetic of the training.
        drawing = replace(model, learner=model.learner.with_precision(config.precision))
        predict = drawing.sampler(posterior, config.members, config.seed)
        mixture = mosaic(
            lambda x: predict(_fast(x)),
            lambda y, x: view.cut(codes, init, y, x),
            view.shape,
            model.spec.tile_pixels,
            lambda done, total: report.progress(done, total, "tiles forecast"),
            together=TILES_A_CALL[device.type],
        )
    with _timed(made, "noise, mean, spread, probabilities"):
        dataset = forecast_dataset(config, model.spec, view, mixture, init_time, view.seen(codes))
        dataset.attrs |= own | {
            "area": view.area_in_words,
            "started_from": ASKED if config.init_time else "newest frames",
            "history": f"{clock():%Y-%m-%dT%H:%M:%SZ} made by fewcast",
        }
        del mixture
    with _writing(config.output), _timed(made, "picture, animation, store"):
        with folder.publishing(place, wanted) as hidden, ThreadPoolExecutor(2, "pictures") as pool:
            drawn = pool.submit(_draw, dataset, view, init, folder, hidden / Path(made.picture).name)
            moving = pool.submit(animate, dataset, view, init, hidden / Path(animation).name) if animation else None
            write_store(dataset, hidden / place.name)
            if config.netcdf:
                dataset.to_netcdf(hidden / place.with_suffix(".nc").name, engine="h5netcdf")
            report.figure("forecast", drawn.result(), 0)
            if moving:
                moving.result()
        folder.point_to_latest()
        for name in folder.retire(config.keep_days, place):
            report.message(f"{name} is older than {config.keep_days:g} days: deleted")
        _tell_superseded(config, view, init, folder, report)
    return made


def _draw(dataset: xr.Dataset, view: Newest, init: int, folder: Folder, path: Path) -> Figure:
    """The picture, in a file and for whoever else keeps it."""
    picture = forecast_picture(dataset, view, init, folder.skill())
    picture.savefig(
        path, dpi=110, pil_kwargs={"compress_level": 3}
    )  # a quarter of a second less than as small as can be
    return picture


def _fast(x: Tensor) -> Tensor:
    """The same inputs with channels last in memory: a CPU's convolutions then take a fifth less time."""
    return x.contiguous(memory_format=torch.channels_last)


def _require_fresh(config: ForecastConfig, view: Newest, init: np.datetime64, now: datetime, report: Report) -> None:
    """Refuse newest frames that are too old; say so where the newest ones have holes and an older start is taken."""
    newest = view.newest_slot
    archive = view.frames.archive
    age = (np.datetime64(now.replace(tzinfo=None), "s") - init).astype("timedelta64[m]").astype(int)
    holes = newest is not None and not config.init_time and archive.times[newest] > init
    if config.max_age_minutes and not config.init_time and age > config.max_age_minutes:
        raise FewcastError(
            f"the archive {archive.url} is stale",
            found=f"{age} minutes since {init.astype('M8[m]')}, the newest start, where "
            f"{config.max_age_minutes} are allowed" + (" (newer frames have holes)" if holes else ""),
            mend="see that `ingest` runs and that the source delivers, or raise forecast.max_age_minutes",
        )
    if holes:
        report.message(
            f"the newest frames have holes: starting from {init.astype('M8[m]')} and not from "
            f"{archive.times[newest].astype('M8[m]')}"
        )


def _tell_superseded(config: ForecastConfig, view: Newest, init: int, folder: Folder, report: Report) -> None:
    """Name the starts between forecasts that have none of their own: the newest alone is made.

    A late frame may complete a start long after a newer one was forecast, and a killed run tells nothing, so all that
    the folder does not account for is told, whichever run left it so. The log may be lost with its server: the folder
    keeps the word. A forecast whose start was asked for may lie anywhere, and says nothing of what should be between.
    """
    forecasts = folder.forecasts()
    first = (moment for moment, place in forecasts if read_attributes(place).get("started_from") != ASKED)
    if config.init_time or (oldest := next(first, None)) is None:
        return
    times, made = view.frames.archive.times, {moment for moment, _ in forecasts}
    newest, told = times[init].astype("M8[s]"), folder.superseded()
    between = view.superseded(init, oldest)
    left = [times[slot].astype("M8[s]") for slot in between if times[slot].astype("M8[s]") not in made | told.keys()]
    if left:
        folder.note_superseded(dict.fromkeys(left, newest))
        names = ", ".join(stamp(moment) for moment in left[-NAMED:])
        report.message(f"superseded by {stamp(newest)}: {names}")


@contextmanager
def _writing(output: str) -> Iterator[None]:
    """Say in one line that the folder cannot be written, since another try would not help; the rest may pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise FewcastError(
            f"forecasts cannot be written to {output}",
            found=error.strerror or str(error),
            mend="free some space, or give forecast.output a folder that may be written to, and run again",
        ) from error


@contextmanager
def _timed(made: Forecast, stage: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    made.seconds[stage] = time.perf_counter() - begin
