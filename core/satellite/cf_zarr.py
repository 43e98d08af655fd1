"""CF frames in one Zarr store: variables (time, y, x), each time a granule of its own."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.satellite import cf, cf_values, hdf5, remote
from core.satellite.granule import CorruptGranule, Granule, Image, Pixels, Reason

if TYPE_CHECKING:
    import xarray as xr


def is_store(config: IngestConfig) -> bool:
    """Whether the source is a Zarr store rather than a folder of files."""
    return config.system == "cf" and config.source.rstrip("/").endswith(".zarr")


def _opened(config: IngestConfig) -> "xr.Dataset":
    import xarray as xr  # of all sources this one alone needs it

    return xr.open_zarr(config.source, chunks=None, storage_options=remote.options(config) or None)


@lru_cache(maxsize=4)
def _known(settings: str, version: str) -> "xr.Dataset":
    """The store as it was when it was listed, maybe by another process: grown since, it has another version."""
    return _opened(IngestConfig.model_validate_json(settings))


def list_granules(config: IngestConfig, span: TimeRange) -> Iterator[Granule]:
    """Every time in the span of every configured channel; the store is opened afresh, as it may have grown.

    The entity tag of each is that of all the times, by which `_known` tells a store that has grown.
    """
    try:
        store = _opened(config)
    except Exception as error:
        raise remote.refusal(config, error) from error
    missing = [name for name in ("time", "x", "y", *config.channels) if name not in store.variables]
    if missing:
        raise FewcastError(
            f"{config.source} lacks variables",
            found=f"no {', '.join(missing)} among {', '.join(map(str, store.variables))}",
            mend="correct ingest.channels; a CF store has time, x, y and a variable (time, y, x) per channel",
        )
    if store["time"].dtype.kind != "M":
        raise FewcastError(
            f"the times of {config.source} are mere numbers",
            found=f"time in {store['time'].attrs.get('units', 'no units')!r}",
            mend="give time units as CF has them, such as 'minutes since 1970-01-01'",
        )
    times = np.unique(_seconds(store))
    start, end = (np.datetime64(moment.replace(tzinfo=None), "s") for moment in (span.start, span.end))
    tag = hashlib.blake2b(store["time"].values.tobytes(), digest_size=8).hexdigest()
    for time in times[(times >= start) & (times < end)]:
        for channel in config.channels:
            yield Granule(_url(config, channel, time), channel, time, 0, tag)


def _seconds(store: "xr.Dataset") -> NDArray[np.datetime64]:
    """The times to the nearest second: days in floating point come out some nanoseconds early or late."""
    times: NDArray[np.datetime64] = store["time"].values
    return (times + np.timedelta64(500, "ms")).astype("datetime64[s]")


def _url(config: IngestConfig, channel: str, time: np.datetime64) -> str:
    return f"{config.source.rstrip('/')}#{channel}@{time}"


def open_image(granule: Granule, config: IngestConfig) -> Image:
    """One time of one variable, readable by windows; of a time that comes twice, the last is taken."""
    with hdf5.guarded(granule.url):
        store = remote.retried(lambda: _known(config.model_dump_json(), granule.etag), config, granule.url)
        field = store[granule.channel]
        if field.dims != ("time", "y", "x"):
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{granule.channel} has dimensions {field.dims}")
        index = int(np.flatnonzero(_seconds(store) == granule.time)[-1])
        mapping = field.attrs.get("grid_mapping") or field.encoding.get("grid_mapping", "")
        if mapping not in store.variables:
            raise CorruptGranule(Reason.MISSING_VARIABLE, f"grid mapping {mapping!r}")
        axes = [(store[name].values, str(store[name].attrs.get("units", ""))) for name in ("x", "y")]
        crs = {name: value for name, value in store[mapping].attrs.items() if cf.is_crs(name)}
        grid, flip = cf.oriented(axes[0], axes[1], crs, field.shape[1:])
        factor = cf_values.unit_factor(config.kind, str(field.attrs.get("units", "")))

    def read(rows: slice, columns: slice) -> Pixels:
        first, last, _ = rows.indices(field.shape[1])
        window = slice(field.shape[1] - last, field.shape[1] - first) if flip else slice(first, last)
        with hdf5.guarded(granule.url):
            part = field[index, window, columns]
            raw = remote.retried(lambda: np.asarray(part.values, np.float32), config, granule.url)
        values = np.array(raw[::-1] if flip else raw) * np.float32(factor)
        zero, here = not values.any(), grid.window(rows, columns)
        return cf_values.judged(values, np.isnan(values), here, config.kind, raw_all_zero=zero)

    return Image(granule.channel, config.kind, granule.time, granule.time, grid, read)
