"""CF frames in one Zarr store: variables (time, y, x), each time a granule of its own."""

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from core.config import IngestConfig
from core.errors import FewcastError
from core.satellite import cf, hdf5, remote
from core.satellite.granule import PHYSICAL_RANGE, CorruptGranule, Granule, Image, Pixels, Reason

if TYPE_CHECKING:
    import xarray as xr


def is_store(config: IngestConfig) -> bool:
    """Whether the source is a Zarr store rather than a folder of files."""
    return config.system == "cf" and config.source.rstrip("/").endswith(".zarr")


@lru_cache(maxsize=4)
def _store(source: str, anonymous: bool, endpoint_url: str) -> "xr.Dataset":
    import xarray as xr  # of all sources this one alone needs it

    options: dict[str, Any] = {"anon": anonymous} if source.startswith("s3://") else {}
    if options and endpoint_url:
        options["endpoint_url"] = endpoint_url
    return xr.open_zarr(source, chunks=None, storage_options=options or None)


def _opened(config: IngestConfig) -> "xr.Dataset":
    return _store(config.source, config.anonymous, config.endpoint_url)


def list_granules(config: IngestConfig) -> list[Granule]:
    """Every time of every configured channel; the store is opened afresh, as it may have grown."""
    _store.cache_clear()
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
    times = np.unique(store["time"].values.astype("datetime64[s]"))
    return [Granule(_url(config, channel, time), channel, time, 0) for time in times for channel in config.channels]


def _url(config: IngestConfig, channel: str, time: np.datetime64) -> str:
    return f"{config.source.rstrip('/')}#{channel}@{time}"


def open_image(granule: Granule, config: IngestConfig) -> Image:
    """One time of one variable, readable by windows; of a time that comes twice, the last is taken."""
    with hdf5.guarded(granule.url):
        store = remote.retried(lambda: _opened(config), config, granule.url)
        field = store[granule.channel]
        if field.dims != ("time", "y", "x"):
            raise CorruptGranule(Reason.WRONG_SHAPE, f"{granule.channel} has dimensions {field.dims}")
        index = int(np.flatnonzero(store["time"].values.astype("datetime64[s]") == granule.time)[-1])
        mapping = field.attrs.get("grid_mapping") or field.encoding.get("grid_mapping", "")
        if mapping not in store.variables:
            raise CorruptGranule(Reason.MISSING_VARIABLE, f"grid mapping {mapping!r}")
        axes = [(store[name].values, str(store[name].attrs.get("units", ""))) for name in ("x", "y")]
        crs = {name: value for name, value in store[mapping].attrs.items() if cf.is_crs(name)}
        crs = {name: value if isinstance(value, str) else np.ravel(value)[0] for name, value in crs.items()}
        grid, flip = cf.oriented(axes[0], axes[1], crs, field.shape[1:])
        factor = cf.unit_factor(config.kind, str(field.attrs.get("units", "")))
    low, high = PHYSICAL_RANGE[config.kind]

    def read(rows: slice, columns: slice) -> Pixels:
        first, last, _ = rows.indices(field.shape[1])
        window = slice(field.shape[1] - last, field.shape[1] - first) if flip else slice(first, last)
        with hdf5.guarded(granule.url):
            part = field[index, window, columns]
            raw = remote.retried(lambda: np.asarray(part.values, np.float32), config, granule.url)
        values = np.array(raw[::-1] if flip else raw) * np.float32(factor)
        missing = np.isnan(values)
        wild = ~missing & ~((values >= low) & (values <= high))
        values[wild] = np.nan
        return Pixels(values, int(missing.sum()), int(wild.sum()), not values.any())

    return Image(granule.channel, config.kind, granule.time, granule.time, grid, read)
