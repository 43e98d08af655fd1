"""The folder of the forecasts: their names, which is the newest, which are there, and which are old enough to go."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from core.errors import FewcastError
from core.forecast.dataset import IDENTITY, encoding
from core.links import point

_STAMP = "%Y%m%dT%H%MZ"
_FORM = f"forecast_{_STAMP}.zarr"
_BESIDE = (".png", ".gif", ".nc")
_ABANDONED_SECONDS = 3600
VERIFICATION = "verification"
SUPERSEDED = "superseded.json"


class Folder:
    """Forecasts by the time they start from; `latest.*` are links to the newest."""

    def __init__(self, path: str) -> None:
        if "://" in path:
            raise FewcastError(
                "forecasts are written to a folder", found=path, mend="set forecast.output to a folder of this machine"
            )
        self.path = Path(path)

    def place(self, init_time: np.datetime64) -> Path:
        """Where the forecast from that time lies."""
        return self.path / f"{init_time.astype('M8[s]').item():{_FORM}}"

    def forecasts(self) -> list[tuple[np.datetime64, Path]]:
        """Every forecast that is there, by the time it starts from."""
        found: list[tuple[np.datetime64, Path]] = []
        for path in sorted(self.path.glob("forecast_*.zarr")):
            try:
                found.append((_moment(path.name, _FORM), path))
            except ValueError:
                continue
        return found

    def holds(self, place: Path, own: Mapping[str, Any], wanted: Iterable[str]) -> bool:
        """Whether the forecast of that identity is there, with the files `wanted` beside it (`.png`, ...)."""
        attributes = read_attributes(place)
        same = all(attributes.get(key) == own[key] for key in IDENTITY)
        return bool(attributes) and same and all(place.with_suffix(suffix).exists() for suffix in wanted)

    @contextmanager
    def written(self, dataset: xr.Dataset, place: Path, wanted: Iterable[str]) -> Iterator[None]:
        """Write a forecast so that it appears whole or not at all: made beside its place, and renamed after the block.

        What is made in the block, like its pictures, is there before it. A NetCDF file is written where it is among the
        files `wanted` beside it; those of another forecast that are not go, since they would be taken for this one's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        beside = place.with_name(f".{place.name}.{os.getpid()}.partial")
        shutil.rmtree(beside, ignore_errors=True)
        dataset.to_zarr(beside, mode="w", zarr_format=3, consolidated=False, encoding=encoding(dataset))
        if ".nc" in wanted:
            dataset.to_netcdf(beside / "forecast.nc", engine="h5netcdf")
        yield
        if ".nc" in wanted:
            os.replace(beside / "forecast.nc", place.with_suffix(".nc"))
        _replace(place, beside)
        for suffix in set(_BESIDE).difference(wanted):
            place.with_suffix(suffix).unlink(missing_ok=True)

    def point_to_latest(self) -> None:
        """`latest.zarr`, `latest.png`, ... are links to the newest forecast, even if an older one is made after it."""
        forecasts = self.forecasts()
        if not forecasts:
            return
        newest = forecasts[-1][1]
        for suffix in (".zarr", *_BESIDE):
            target, link = newest.with_suffix(suffix), self.path / f"latest{suffix}"
            if target.exists():
                point(link, target.name)
            else:
                link.unlink(missing_ok=True)

    def retire(self, keep_days: float, made: Path) -> Iterator[str]:
        """Delete forecasts that start `keep_days` before the newest one, and what killed runs left; yields names.

        What has just been `made` stays, however old its start.
        """
        forecasts = self.forecasts()
        oldest = forecasts[-1][0] - np.timedelta64(int(keep_days * 86400), "s") if forecasts and keep_days else None
        for init_time, path in forecasts:
            if oldest is not None and init_time < oldest and path != made:
                _take_away(path)
                for suffix in _BESIDE:
                    path.with_suffix(suffix).unlink(missing_ok=True)
                yield path.name
        beside = [path for suffix in _BESIDE for path in self.path.glob(f"forecast_*{suffix}")]
        alone = [path for path in beside if not path.with_suffix(".zarr").exists()]
        for left in (*alone, *self.path.glob(".*.partial")):
            with suppress(FileNotFoundError):  # another run clears away too
                if time.time() - left.lstat().st_mtime > _ABANDONED_SECONDS:
                    _delete(left)

    def superseded(self) -> dict[np.datetime64, np.datetime64]:
        """Starts that have no forecast of their own, each with the newer one that was forecast in its place."""
        try:
            found: dict[str, str] = json.loads((self.path / SUPERSEDED).read_text())
            return {_moment(start, _STAMP): _moment(by, _STAMP) for start, by in found.items()}
        except (OSError, ValueError):
            return {}

    def note_superseded(self, more: Mapping[np.datetime64, np.datetime64]) -> None:
        """Add to them; those from before the oldest forecast that is left are forgotten."""
        oldest = self.forecasts()[0][0]
        kept = {start: by for start, by in sorted({**self.superseded(), **more}.items()) if start >= oldest}
        beside = self.path / f".{SUPERSEDED}.{os.getpid()}.partial"
        beside.write_text(json.dumps({stamp(start): stamp(by) for start, by in kept.items()}, indent=1))
        beside.replace(self.path / SUPERSEDED)

    def skill(self) -> dict[str, Any]:
        """The rolling scores of past forecasts, as `verify` left them; empty before there are any."""
        try:
            found: dict[str, Any] = json.loads((self.path / VERIFICATION / "rolling.json").read_text())
            return found
        except (OSError, ValueError):
            return {}


def _take_away(path: Path) -> None:
    """Delete a folder so that it is there whole or not at all; what a kill leaves of it is cleared away later."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.retired.partial")
    shutil.rmtree(beside, ignore_errors=True)
    with suppress(FileNotFoundError):  # another run clears away too
        os.rename(path, beside)
        shutil.rmtree(beside)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _replace(place: Path, beside: Path) -> None:
    """Put a folder in the place of another; of two runs that do it at once either is there in the end, and whole."""
    before = place.with_name(f".{place.name}.{os.getpid()}.before.partial")
    while beside.exists():
        with suppress(FileNotFoundError):
            os.rename(place, before)
        try:
            os.rename(beside, place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another run was quicker: its turn to go
                raise
        shutil.rmtree(before, ignore_errors=True)


def stamp(moment: np.datetime64) -> str:
    """A start as names and logs have it."""
    return f"{moment.astype('M8[s]').item():{_STAMP}}"


def _moment(text: str, form: str) -> np.datetime64:
    return np.datetime64(datetime.strptime(text, form), "s")


def read_attributes(place: Path) -> dict[str, Any]:
    """Attributes of the forecast at a place; empty where there is none."""
    try:
        found: dict[str, Any] = json.loads((place / "zarr.json").read_text())["attributes"]
        return found
    except (OSError, ValueError, KeyError):
        return {}
