"""A forecast as CF data: members, mean, spread and exceedance probabilities on the archive's grid."""

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from zarr.codecs import BloscCodec

from core.config import ForecastConfig, Threshold
from core.errors import FewcastError
from core.forecast.newest import Newest
from core.model import DataSpec, Model
from core.satellite.granule import UNITS, Kind
from core.verify.mixture import Mixture, noise_field

IDENTITY = ("model_version", "model_step", "learner", "support_init_times", "settings_digest", "frames_digest")
_CHUNK = 256
_CODES = 32_000  # members are 16-bit codes about the channel's mean, in steps of at least STEP of the channel's units
STEP = 0.01
LOST = np.int16(-32768)  # what no member is: what is not there must not read as if all were as the mean


def forecast_dataset(
    config: ForecastConfig,
    spec: DataSpec,
    view: Newest,
    mixture: Mixture,
    init_time: np.datetime64,
    seen: NDArray[np.bool_],
) -> xr.Dataset:
    """The forecast of a normalised mixture, means (S, L*C, Y, X).

    The mean, the spread (std) and the probabilities are those of the mixture, not of its few members. Pixels that are
    not `seen` (Y, X) in any input frame are missing: the network gives them a forecast that looks like any other.
    """
    leads, channels = spec.target_frames, len(spec.channels)
    grid = view.frames.archive.grid.window(*view.area)
    device = mixture.means.device
    scale = torch.tensor(spec.std, device=device).repeat(leads).view(-1, 1, 1)
    offset = torch.tensor(spec.mean, device=device).repeat(leads).view(-1, 1, 1)

    def split(field: Tensor) -> NDArray[np.float32]:
        return field.unflatten(-3, (leads, channels)).float().cpu().numpy()

    image = ("lead_time", "channel", "y", "x")
    mean, spread = mixture.mean() * scale + offset, mixture.variance().sqrt() * scale
    codes, packing = _members(config, mixture, lambda field: field * scale + offset, float(np.mean(spec.mean)))
    fields: dict[str, Any] = {
        "members": (("member", *image), codes.reshape(len(codes), leads, channels, *codes.shape[-2:]), packing),
        "mean": (image, split(mean)),
        "spread": (image, split(spread)),
    }
    events = [_event(threshold, spec, mixture) for threshold in config.thresholds]
    if events:
        fields["probability"] = (("event", "lead_time", "y", "x"), np.stack(events))
    if not seen.all():
        for _, values, *_ in fields.values():
            np.copyto(values, LOST if values.dtype == LOST.dtype else np.nan, where=~seen)
    lead = np.array(spec.lead_minutes) * np.timedelta64(1, "m")
    dataset = xr.Dataset(
        fields,
        coords={
            "member": np.arange(len(codes), dtype=np.int32),
            "lead_time": lead.astype("timedelta64[ns]"),
            "channel": np.array(spec.channels, object),
            "channel_units": ("channel", np.array([UNITS[kind] for kind in view.kinds], object)),
            "y": grid.y,
            "x": grid.x,
            "init_time": init_time.astype("M8[ns]"),
            "valid_time": ("lead_time", init_time.astype("M8[ns]") + lead.astype("timedelta64[ns]")),
            "crs": ((), np.int32(0), grid.crs),
        }
        | ({"event": np.array([threshold.name for threshold in config.thresholds], object)} if events else {}),
        attrs={"Conventions": "CF-1.11", "title": "Satellite nowcast", "source": f"fewcast {version('fewcast')}"},
    )
    return _describe(dataset, config, spec, view.kinds)


def _members(
    config: ForecastConfig, mixture: Mixture, physical: Callable[[Tensor], Tensor], centre: float
) -> tuple[NDArray[np.int16], dict[str, float]]:
    """Members (S, L*C, Y, X), each with a noise field of its own over the whole area, as codes with their packing."""
    generator = torch.Generator(mixture.means.device).manual_seed(config.seed)
    own_std = mixture.std.ndim == mixture.means.ndim
    drawn = []
    for i, mean in enumerate(mixture.means):
        std = mixture.std[min(i, len(mixture.std) - 1)] if own_std else mixture.std
        noise = noise_field(mean.shape, generator, config.correlation_pixels).to(mean.dtype)
        drawn.append(physical(mean + std * noise) - centre)
    step = max(STEP, max(float(member.abs().amax()) for member in drawn) / _CODES)
    codes = np.stack([(member / step).round_().to(torch.int16).cpu().numpy() for member in drawn])
    return codes, {"scale_factor": step, "add_offset": centre}


def _event(threshold: Threshold, spec: DataSpec, mixture: Mixture) -> NDArray[np.float32]:
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
        return part.exceedance(value).float().cpu().numpy()
    return part.cdf(value).float().cpu().numpy()


def _describe(dataset: xr.Dataset, config: ForecastConfig, spec: DataSpec, kinds: tuple[Kind, ...]) -> xr.Dataset:
    """Attributes by CF; a field has units of its own where all channels share them."""
    shared = {"units": UNITS[kinds[0]]} if len({*kinds}) == 1 else {}
    for name, words in (("members", "forecast members"), ("mean", "mean of the forecast distribution"),
                        ("spread", "standard deviation of the forecast distribution")):  # fmt: skip
        dataset[name].attrs |= {"long_name": words, **shared, "grid_mapping": "crs"}
        if {*kinds} == {"brightness_temperature"} and name != "spread":
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
    dataset["channel_units"].attrs = {"long_name": "units of each channel"}
    dataset["member"].attrs = {"standard_name": "realization", "units": "1"}
    for name in ("init_time", "valid_time"):
        dataset[name].encoding = {"units": "minutes since 1970-01-01", "dtype": "int64"}
    dataset["members"].encoding = {"_FillValue": LOST}
    dataset["lead_time"].encoding = {"units": "minutes", "dtype": "int64"}
    return dataset


def write_store(dataset: xr.Dataset, path: Path) -> None:
    """Write it as a Zarr store."""
    dataset.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=_encoding(dataset))


def _encoding(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Chunks and compression in Zarr: a member at a time, all lead times of a part of the area together.

    What is lost reads as missing: by itself xarray lets it read as zero.
    """
    fast = BloscCodec(cname="lz4", shuffle="bitshuffle")
    sizes, found = dict(dataset.sizes), {}
    for name, variable in dataset.data_vars.items():
        lost = LOST if variable.dtype == LOST.dtype else np.float32(np.nan)
        chunks = tuple(
            min(sizes[str(d)], _CHUNK) if d in ("y", "x") else 1 if d in ("member", "event") else sizes[str(d)]
            for d in variable.dims
        )
        found[str(name)] = {"chunks": chunks, "compressors": [fast], "fill_value": lost, "_FillValue": lost}
    return found


def identity(config: ForecastConfig, model: Model, view: Newest, init: int, support: list[int]) -> dict[str, Any]:
    """What a forecast was made of, as attributes: equal identities mean equal members.

    Frames may be partial, and be completed or published again later: they are part of it, by when they were written.
    """
    archive, frames = view.frames.archive, view.frames.written(view.slots(init, support))
    where = {
        "output",
        "archive",
        "run",
        "netcdf",
        "animation",
        "keep_days",
        "verify_hours",
        "max_age_minutes",
        "device",
    }
    settings = config.model_dump(mode="json", exclude=where)
    text = json.dumps([settings, model.version, archive.url], sort_keys=True)
    return {
        "model_version": model.version,
        "model_step": int(model.step),
        "learner": model.config.learner,
        "support_init_times": ", ".join(str(time.astype("M8[m]")) for time in archive.times[support]),
        "settings_digest": hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        "frames_digest": hashlib.blake2b("\n".join(frames).encode(), digest_size=8).hexdigest(),
    }
