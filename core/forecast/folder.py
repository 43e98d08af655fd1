"""The folder of the forecasts: their names, how one is put there, which is the newest, and which are to go."""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from core.durable import to_disk, tree_to_disk
from core.errors import FewcastError
from core.forecast.dataset import IDENTITY
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
        beside = [place.with_suffix(suffix) for suffix in wanted]
        return bool(attributes) and same and all(path.exists() and path.stat().st_size for path in beside)

    def require_area(self, area: str) -> None:
        """Refuse another area than the newest forecast's: it would take the places of the others and mix their scores.

        Forecasts of earlier versions do not say theirs, and are passed over.
        """
        forecasts = self.forecasts()
        there = read_attributes(forecasts[-1][1]).get("area", area) if forecasts else area
        if there != area:
            raise FewcastError(
                f"{self.path} holds forecasts of another area",
                found=f"{there} in the newest, and {area} asked for",
                mend="give forecast.output a folder of its own, as `fewcast nowcast --region` does",
            )

    @contextmanager
    def publishing(self, place: Path, wanted: Iterable[str]) -> Iterator[Path]:
        """A hidden folder for the block to make the store and the files `wanted` in, under the names they will have.

        After the block they take their places; where it is left by an error, what was there before is as it was. The
        store that was there goes first and the new one comes last, since a forecast counts as made by its store: a kill
        in between leaves one to be made, and none with the pictures of another. What lies beside of another forecast
        and is not among `wanted` goes, since it would be taken for this one's.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._sweep()
        hidden = place.with_name(f".{place.name}.{os.getpid()}.partial")
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        try:
            yield hidden
            tree_to_disk(hidden)
            _set_aside(place, hidden)
            for suffix in _BESIDE:
                beside = place.with_suffix(suffix)
                if suffix in wanted:
                    os.replace(hidden / beside.name, beside)
                else:
                    beside.unlink(missing_ok=True)
            _replace(place, hidden / place.name)
            to_disk(self.path)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

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
        self._sweep()

    def _sweep(self) -> None:
        """Clear away what killed runs left, once it is too old to be another run's at work."""
        beside = [path for suffix in _BESIDE for path in self.path.glob(f"forecast_*{suffix}")]
        alone = [path for path in beside if not path.with_suffix(".zarr").exists()]
        for left in (*alone, *self.path.glob(".*.partial")):
            with suppress(OSError):  # another run clears away too, and what cannot go is in nobody's way
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


def _replace(place: Path, made: Path) -> None:
    """Put a folder in the place of another; of two runs that do it at once either is there in the end, and whole."""
    while made.exists():
        _set_aside(place, made.parent)
        try:
            os.rename(made, place)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another run was quicker: its turn to go
                raise


def _set_aside(place: Path, hidden: Path) -> None:
    """Take a folder, if there is one, out of its place in one step: deleting it takes longer."""
    with suppress(FileNotFoundError):
        os.rename(place, tempfile.mkdtemp(prefix="before-", dir=hidden))


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
