"""What every reader speaks: a granule as published, its grid, and the calibrated frame it becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from core.config import IngestConfig, TimeRange
    from core.satellite import hdf5

Kind = Literal["brightness_temperature", "reflectance", "display_count", "solar_elevation"]

UNITS: Mapping[Kind, str] = {
    "brightness_temperature": "K",
    "reflectance": "percent",
    "display_count": "1",
    "solar_elevation": "degree",
}

# Wider than anything an imager sees from orbit (3.8 um noise at a cold top, a saturated fire, glint), and
# narrower than what a flipped bit makes.
PHYSICAL_RANGE: Mapping[Kind, tuple[float, float]] = {
    "brightness_temperature": (130.0, 430.0),
    "reflectance": (-10.0, 200.0),
    "display_count": (0.0, 65534.0),
    "solar_elevation": (-90.0, 90.0),
}


class Reason(IntEnum):
    """Why a granule, or a part of it, is not served as data: the archive's `reason` codes, never renumbered."""

    NONE = 0
    NOT_HDF5 = 1
    TRUNCATED = 2
    DAMAGED = 3
    MISSING_ATTRIBUTE = 4
    BAD_ATTRIBUTE = 5
    MISSING_VARIABLE = 6
    WRONG_CHANNEL = 7
    WRONG_TIME = 8
    WRONG_SHAPE = 9
    WRONG_GRID = 10
    ALL_ZERO = 11
    ALL_MISSING = 12
    OUT_OF_RANGE = 13
    BAD_QUALITY = 14
    PART_OF_AREA = 15
    MISSING_TILES = 16
    VANISHED = 17
    UNREACHABLE = 18
    FROZEN = 19


class CorruptGranule(Exception):  # noqa: N818 - the granule is corrupt, not the program
    """The source holds something that cannot be served as data; it goes to `status` 3 with its reason."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(f"{reason.name.lower()}: {text}")
        self.reason = reason
        self.text = text

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        return type(self), (self.reason, self.text)


class UnavailableGranule(CorruptGranule):
    """The granule could not be fetched (vanished, or unreachable after every retry): worth another look later."""


class RefusedGranule(UnavailableGranule):
    """Access to the granule was denied: no retry helps, the credentials must change."""


@dataclass(frozen=True)
class Granule:
    """One file as the satellite operator publishes it, known from its key alone.

    `time` is the nominal slot time (UTC, second precision); `parts` are the files of a system that publishes one
    image as many tiles, and `url` is then their common beginning.
    """

    url: str
    channel: str
    time: np.datetime64
    size: int
    etag: str = ""
    parts: tuple["Granule", ...] = field(default=(), repr=False)


def latest(group: Sequence[Granule]) -> Granule:
    """Of several files for one slot and channel, the last by key: the last one published."""
    return group[-1]


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixel centres of a regular lattice in a map projection.

    x (X,) metres ascending; y (Y,) metres descending, from north to south; crs: the attributes of a CF grid mapping.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    crs: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @cached_property
    def spacing(self) -> tuple[float, float]:
        """Metres between neighbouring rows and columns, both positive."""
        return (
            float(self.y[0] - self.y[-1]) / max(len(self.y) - 1, 1),
            float(self.x[-1] - self.x[0]) / max(len(self.x) - 1, 1),
        )

    def window(self, rows: slice, columns: slice) -> "Grid":
        return Grid(self.x[columns], self.y[rows], self.crs)


@dataclass(frozen=True, eq=False)
class Frame:
    """One channel of one slot, calibrated, on a grid.

    values (Y, X) float32 in `UNITS[kind]`, NaN where missing. `reason` says why pixels that should be there are not
    (NONE: none are missing but those off the disk), `flagged` and `out_of_range` count them at the source's resolution.
    """

    channel: str
    kind: Kind
    time: np.datetime64
    observation_time: np.datetime64
    values: NDArray[np.float32]
    grid: Grid
    reason: Reason = Reason.NONE
    flagged: int = 0
    out_of_range: int = 0


class Pixels(NamedTuple):
    """A window of an image: values (Y, X) float32 with NaN, and how many pixels were dropped, by cause."""

    values: NDArray[np.float32]
    flagged: int
    out_of_range: int
    raw_all_zero: bool
    missing_tiles: bool = False
    uncovered: bool = False
    """Pixels on the Earth were not scanned."""


@dataclass(frozen=True, eq=False)
class Image:
    """A granule that has been opened and checked but not decoded: `read(rows, columns)` decodes a window of it.

    So a crop of a full disk touches only the chunks under it, and a whole disk streams through in bands of rows.
    """

    channel: str
    kind: Kind
    time: np.datetime64
    observation_time: np.datetime64
    grid: Grid
    read: Callable[[slice, slice], Pixels]


def physical(values: NDArray[np.float64], kind: Kind) -> NDArray[np.float64]:
    """The values, NaN where they lie outside the physical range."""
    low, high = PHYSICAL_RANGE[kind]
    return np.where((values >= low) & (values <= high), values, np.nan)


def observed_at(granule: Granule, observed: np.datetime64, earliest: int, latest: int) -> np.datetime64:
    """The observation's time, which must lie within [earliest, latest) seconds of the key's."""
    late = int((observed.astype("datetime64[s]") - granule.time.astype("datetime64[s]")).astype(np.int64))
    if not earliest <= late < latest:
        raise CorruptGranule(Reason.WRONG_TIME, f"the key says {granule.time}, the file {observed}")
    return observed


class System(Protocol):
    """What one satellite system's module offers."""

    def prefixes(self, config: "IngestConfig", times: "TimeRange") -> list[str]:
        """Folders under the source that can hold granules of these times; few, and no more than needed."""

    def parse(self, key: str, config: "IngestConfig") -> list[tuple[str, np.datetime64]]:
        """(channel, nominal time) of each image in the file of this key; empty for a foreign key."""

    def combine(self, group: Sequence[Granule]) -> Granule:
        """One granule of all the files of one slot and channel, which come ordered by key."""

    def kind(self, channel: str, config: "IngestConfig") -> Kind:
        """The physical quantity of a channel."""

    def open(self, granule: Granule, files: "Sequence[hdf5.File]", config: "IngestConfig") -> Image:
        """Check the file (or tiles, each opened when it is first taken) against the key; raises `CorruptGranule`."""
