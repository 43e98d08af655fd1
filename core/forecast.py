"""The newest frames and a trained run to a forecast: adapt on the latest windows, draw members, write CF Zarr."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch
from torch import Tensor

from core.config import ForecastConfig
from core.forecast_files import forecast_dataset, forecast_picture, identity, point_to_latest, read_identity, write
from core.model import Model
from core.mosaic import mosaic
from core.newest import Newest
from core.report import Report, Silent
from core.verify.mixture import Mixture


@dataclass(frozen=True)
class Forecast:
    """What a forecast leaves: the Zarr store, its picture, and whether it was there already."""

    url: str
    picture: str
    init_time: np.datetime64
    support_init_times: tuple[np.datetime64, ...]
    skipped: bool = False


def forecast(
    config: ForecastConfig,
    *,
    report: Report | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Forecast:
    """Adapt the run to the newest windows of the area and forecast from the newest frames.

    The same run, area, frames and settings give the same members. A forecast that is there is not made again.
    Raises `FewcastError` where the archive has no k usable frames in a row, or an area outside the archive is asked.
    """
    report = report or Silent()
    model = Model.load(config.run)
    view = Newest.open(config, model)
    init = view.init_slot()
    support_slots = view.support_slots(init, config.support_windows)
    times = view.frames.archive.times
    place = f"{config.output.rstrip('/')}/forecast_{times[init].astype('M8[s]').item():%Y%m%dT%H%MZ}"
    made = Forecast(f"{place}.zarr", f"{place}.png", times[init], tuple(times[slot] for slot in support_slots))
    own = identity(config, model, view.frames.archive, made.support_init_times)
    if read_identity(made.url) == own:
        report.message(f"{made.url} is up to date: skipped")
        return replace(made, skipped=True)
    report.message(f"adapting to {len(support_slots)} windows before {times[init]}")
    posterior = model.adapt(view.support(support_slots), seed=config.seed, steps=None if support_slots else 0)
    codes = view.inputs(init)

    def predict(x: Tensor) -> Mixture:
        with torch.no_grad():
            return model.predict(posterior, x, config.members, config.seed)

    mixture = mosaic(
        predict,
        lambda y, x: view.cut(codes, init, y, x),
        view.shape,
        model.spec.tile_pixels,
        lambda done, total: report.progress(done, total, "tiles forecast"),
    )
    members = mixture.members(torch.Generator().manual_seed(config.seed), config.correlation_pixels)
    dataset = forecast_dataset(config, model.spec, view, mixture, members, made.init_time)
    dataset.attrs |= own | {"history": f"{clock():%Y-%m-%dT%H:%M:%SZ} made by fewcast"}
    write(dataset, made.url, netcdf=config.netcdf)
    picture = forecast_picture(dataset, view, init)
    picture.savefig(made.picture, dpi=120)
    report.figure("forecast", picture, 0)
    point_to_latest(config.output, made.url)
    return made
