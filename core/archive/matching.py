"""Whether an archive is the one that an ingest means to write."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from core.errors import FewcastError
from core.satellite.granule import Grid, Kind
from core.satellite.grid import same_crs

if TYPE_CHECKING:
    from core.archive.archive import Archive

# How far pixel centres may lie apart, as a share of a pixel.
TOLERANCE = 0.05


def require(
    archive: "Archive",
    *,
    grid: Grid | None = None,
    channels: Mapping[str, Kind],
    origin: datetime,
    cadence_minutes: int,
) -> None:
    """Raise `FewcastError` unless the archive has these channels, this time axis and any grid given.

    A coarser cadence on the same slots is the same time axis.
    """
    difference = _of_grid(archive, grid) if grid is not None else None
    difference = difference or _of_content(archive, channels, origin, cadence_minutes)
    if difference:
        what, found = difference
        mend = "give another ingest.archive, or the settings that this one was made with"
        raise FewcastError(f"the archive {archive.url} {what}", found=found, mend=mend)


def _of_grid(archive: "Archive", grid: Grid) -> tuple[str, str] | None:
    """The first difference as (what it is, what was found)."""
    there = archive.grid
    if there.shape != grid.shape:
        return "is of another grid", f"{_size(there)} pixels there, {_size(grid)} asked for"
    shift = max(np.abs(there.x - grid.x).max(), np.abs(there.y - grid.y).max())
    if shift > TOLERANCE * max(grid.spacing):
        return "is of another grid", f"pixels {shift:.0f} m apart"
    if not same_crs(there, grid):
        differing = [name for name in there.crs | grid.crs if there.crs.get(name) != grid.crs.get(name)]
        theirs, ours = (", ".join(f"{name} {one.crs.get(name)}" for name in differing)[:120] for one in (there, grid))
        return "is of another grid", f"{theirs} there, {ours} asked for"
    return None


def _of_content(
    archive: "Archive", channels: Mapping[str, Kind], origin: datetime, cadence_minutes: int
) -> tuple[str, str] | None:
    missing = [name for name in channels if name not in archive.kind_of]
    if missing:
        return f"has no channel {', '.join(missing)}", ", ".join(archive.channels)
    for name, kind in channels.items():
        if archive.kind_of[name] != kind:
            return f"holds another kind of {name}", f"{archive.kind_of[name]} there, {kind} asked for"
    start = np.datetime64(origin.astimezone(UTC).replace(tzinfo=None), "m")
    phase = int((start - archive.times[0]) / np.timedelta64(1, "m"))
    if cadence_minutes % archive.cadence_minutes or phase % archive.cadence_minutes:
        return "is of another time axis", f"every {archive.cadence_minutes} minutes from {archive.times[0]}"
    return None


def _size(grid: Grid) -> str:
    return f"{grid.shape[0]}x{grid.shape[1]}"
