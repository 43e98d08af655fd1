"""A forecast on disk: CF Zarr `member, lead_time, channel, y, x`, the same as NetCDF on request, and a picture."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from core.archive import Archive
from core.config import ForecastConfig, Threshold
from core.errors import FewcastError
from core.model import DataSpec, Model
from core.newest import Newest
from core.satellite.granule import UNITS
from core.verify.mixture import Mixture
from core.verify.plots import forecast_sheet

_CHUNK = 256


def forecast_dataset(
    config: ForecastConfig, spec: DataSpec, view: Newest, mixture: Mixture, members: Tensor, init_time: np.datetime64
) -> xr.Dataset:
    """Members, mean, spread and exceedance probabilities in physical units, on the archive's grid.

    `mixture` and `members` (S, L*C, Y, X) are normalised. The mean, the spread (std) and the probabilities are those
    of the mixture, not of its few members.
    """
    leads, channels = spec.target_frames, len(spec.channels)
    grid = view.frames.archive.grid.window(*view.area)
    scale = torch.tensor(spec.std).view(channels, 1, 1)
    offset = torch.tensor(spec.mean).view(channels, 1, 1)

    def split(field: Tensor) -> Tensor:
        return field.unflatten(-3, (leads, channels))

    image = ("lead_time", "channel", "y", "x")
    fields: dict[str, Any] = {
        "members": (("member", *image), (split(members) * scale + offset).float().numpy()),
        "mean": (image, (split(mixture.mean()) * scale + offset).float().numpy()),
        "spread": (image, (split(mixture.variance().sqrt()) * scale).float().numpy()),
    }
    events = [_event(threshold, spec, mixture) for threshold in config.thresholds]
    if events:
        fields["probability"] = (("event", "lead_time", "y", "x"), np.stack(events))
    lead = np.array(spec.lead_minutes) * np.timedelta64(1, "m")
    dataset = xr.Dataset(
        fields,
        coords={
            "member": np.arange(len(members), dtype=np.int32),
            "lead_time": lead.astype("timedelta64[ns]"),
            "channel": np.array(spec.channels, object),
            "y": grid.y,
            "x": grid.x,
            "init_time": init_time.astype("M8[ns]"),
            "valid_time": ("lead_time", init_time.astype("M8[ns]") + lead.astype("timedelta64[ns]")),
            "crs": ((), np.int32(0), grid.crs),
        }
        | ({"event": np.array([threshold.name for threshold in config.thresholds], object)} if events else {}),
        attrs={"Conventions": "CF-1.11", "title": "Satellite nowcast", "source": f"fewcast {version('fewcast')}"},
    )
    return _describe(dataset, config, spec, view.kind)


def _event(threshold: Threshold, spec: DataSpec, mixture: Mixture) -> np.ndarray:
    name = threshold.channel or spec.channels[0]
    if name not in spec.channels:
        raise FewcastError(
            f"the event {threshold.name} is of a channel that the run does not forecast",
            found=name,
            mend=f"choose one of {', '.join(spec.channels)}",
        )
    channel = spec.channels.index(name)
    outputs = slice(channel, None, len(spec.channels))
    std = mixture.std if mixture.std.shape[-3] == 1 else mixture.std[..., outputs, :, :]
    part = Mixture(mixture.means[:, outputs], std)
    value = (threshold.value - spec.mean[channel]) / spec.std[channel]
    if threshold.above:
        return part.exceedance(value).float().numpy()
    return part.cdf(torch.full_like(part.means[0], value)).float().numpy()


def _describe(dataset: xr.Dataset, config: ForecastConfig, spec: DataSpec, kind: str) -> xr.Dataset:
    units = UNITS[kind]  # type: ignore[index]
    for name, words in (("members", "forecast members"), ("mean", "mean of the forecast distribution"),
                        ("spread", "standard deviation of the forecast distribution")):  # fmt: skip
        dataset[name].attrs = {"long_name": words, "units": units, "grid_mapping": "crs"}
        if kind == "brightness_temperature" and name != "spread":
            dataset[name].attrs["standard_name"] = "toa_brightness_temperature"
    if "probability" in dataset:
        events = [f"{t.channel or spec.channels[0]} {'above' if t.above else 'below'} {t.value:g}"
                 for t in config.thresholds]  # fmt: skip
        dataset["probability"].attrs = {"long_name": "probability of each event", "units": "1", "grid_mapping": "crs"}
        dataset["event"].attrs = {"long_name": "; ".join(events)}
    dataset["x"].attrs = {"standard_name": "projection_x_coordinate", "units": "m", "axis": "X"}
    dataset["y"].attrs = {"standard_name": "projection_y_coordinate", "units": "m", "axis": "Y"}
    dataset["init_time"].attrs = {"standard_name": "forecast_reference_time"}
    dataset["lead_time"].attrs = {"standard_name": "forecast_period"}
    dataset["valid_time"].attrs = {"standard_name": "time"}
    dataset["member"].attrs = {"standard_name": "realization", "units": "1"}
    return dataset


def write(dataset: xr.Dataset, url: str, *, netcdf: bool = False) -> None:
    """Write the forecast so that it appears whole or not at all: made beside its place and renamed."""
    place = Path(url)
    beside = place.with_name(place.name + ".partial")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(beside, ignore_errors=True)
    for name in ("init_time", "valid_time"):
        dataset[name].encoding = {"units": "minutes since 1970-01-01", "dtype": "int64"}
    dataset["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
    sizes = dict(dataset.sizes)
    encoding = {
        str(name): {"chunks": tuple(min(sizes[str(d)], _CHUNK) if d in ("y", "x") else
                                    1 if d in ("member", "event") else sizes[str(d)] for d in variable.dims)}
        for name, variable in dataset.data_vars.items()
    }  # fmt: skip
    dataset.to_zarr(beside, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    if netcdf:
        dataset.to_netcdf(place.with_suffix(".nc.partial"), engine="h5netcdf")
        os.replace(place.with_suffix(".nc.partial"), place.with_suffix(".nc"))
    shutil.rmtree(place, ignore_errors=True)
    os.rename(beside, place)


def identity(
    config: ForecastConfig, model: Model, archive: Archive, support: tuple[np.datetime64, ...]
) -> dict[str, Any]:
    """What a forecast was made of, as attributes: equal identities mean equal members."""
    settings = config.model_dump(mode="json", exclude={"output", "archive", "run", "netcdf"})
    text = json.dumps([settings, model.version, archive.url], sort_keys=True)
    return {
        "model_version": model.version,
        "model_step": int(model.step),
        "learner": model.config.learner,
        "support_init_times": ", ".join(str(time.astype("M8[m]")) for time in support),
        "settings_digest": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
    }


def read_identity(url: str) -> dict[str, Any] | None:
    """The identity of the forecast that is there, if there is one."""
    try:
        attributes = json.loads((Path(url) / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError):
        return None
    keys = ("model_version", "model_step", "learner", "support_init_times", "settings_digest")
    return {key: attributes.get(key) for key in keys}


def point_to_latest(folder: str, url: str) -> None:
    """`latest.json` in the folder names the newest forecast; an older one made later does not take its place."""
    pointer = Path(folder) / "latest.json"
    name = Path(url).name
    try:
        before = json.loads(pointer.read_text())["forecast"]
    except (OSError, ValueError, KeyError):
        before = ""
    beside = pointer.with_suffix(".partial")
    beside.write_text(json.dumps({"forecast": max(name, before)}))
    os.replace(beside, pointer)


def forecast_picture(dataset: xr.Dataset, view: Newest, init: int) -> Figure:
    """Inputs, mean, spread and two members of the first channel."""
    spec = view.model.spec
    slots = [init + offset * view.step for offset in range(1 - spec.input_frames, 1)]
    kind = view.frames.archive.kind_of[spec.channels[0]]
    order = view.frames.archive.kinds[kind].index(spec.channels[0])
    inputs = view.frames.archive.read(kind, slots, *view.area)[:, order]
    rows = {"mean": dataset["mean"], "spread": dataset["spread"]}
    rows |= {f"member {i + 1}": dataset["members"][i] for i in range(2)}
    title = f"{spec.channels[0]}, from {np.datetime_as_string(dataset['init_time'].values, unit='m')} UTC"
    return forecast_sheet(
        inputs, {name: field.isel(channel=0).values for name, field in rows.items()}, spec.lead_minutes, kind, title
    )
