"""A time range of a source to granules, and a granule to a frame on the archive's grid."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from core.config import IngestConfig, TimeRange
from core.errors import FewcastError
from core.satellite import area, cf, cf_zarr, gk2a, goes, grid, hdf5, himawari, remote
from core.satellite.courier import COURIER
from core.satellite.granule import CorruptGranule, Frame, Granule, Grid, Image, Kind, Reason, System, UnavailableGranule

SYSTEMS: dict[str, System] = {"gk2a": gk2a, "goes": goes, "himawari": himawari, "cf": cf}
# Sectors that lie here today and there tomorrow. GK-2A's local area seldom moves: cut to it, its frames are complete.
STEERED = {("goes", "m1"), ("goes", "m2")}
# How many granules are looked at before a source is called unreadable, and how many vote on the archive's grid.
TRIES, VOTES = 12, 5


class NothingReadableError(FewcastError):
    """No granule so far tells the grid; later ones may.

    `away` is what to raise instead where none does: nothing that would have told could be fetched.
    """

    away: FewcastError | None = None


def system(config: IngestConfig) -> System:
    return SYSTEMS[config.system]


def kind(config: IngestConfig, channel: str) -> Kind:
    """The physical quantity of a channel; `FewcastError` for a channel that the system has not."""
    try:
        return system(config).kind(channel, config)
    except ValueError as error:
        raise FewcastError(
            "ingest.channels names no channel", found=str(error), mend="correct ingest.channels"
        ) from error


def list_granules(config: IngestConfig, times: TimeRange | None = None) -> list[Granule]:
    """The granules of the configured channels on the archive's slots, by time and channel.

    Only the folders that can hold them are asked for. Of several files for one slot and channel the last by key is
    taken, which is the last one published. Raises `FewcastError` for a source that cannot be listed.
    """
    span = times or config.times
    for channel in config.channels:
        kind(config, channel)
    area.bounds(config.area)
    if cf_zarr.is_store(config):
        return [g for g in cf_zarr.list_granules(config, span) if _wanted(g.time, config, span)]
    files, root = remote.filesystem(config)
    places = folders(config, span)
    with ThreadPoolExecutor(min(config.connections, len(places) or 1)) as pool:
        listings = list(pool.map(lambda folder: _listing(files, root, folder, config), places))
    if not any(listings):
        _check_root(files, root, config)
    found: dict[tuple[np.datetime64, str], list[Granule]] = {}
    for name, info in sorted((item for listing in listings for item in listing.items()), key=lambda item: item[0]):
        for channel, time in system(config).parse(name, config):
            if channel not in config.channels or not _wanted(time, config, span):
                continue
            url = files.unstrip_protocol(name)
            granule = Granule(url, channel, time, int(info["size"]), remote.etag(info))
            found.setdefault((time, channel), []).append(granule)
    return [system(config).combine(found[key]) for key in sorted(found)]


def folders(config: IngestConfig, span: TimeRange) -> list[str]:
    """The folders below the source that can hold granules of a span; a Zarr store is one."""
    return [""] if cf_zarr.is_store(config) else system(config).prefixes(config, span)


def _wanted(time: np.datetime64, config: IngestConfig, span: TimeRange) -> bool:
    """Whether a time lies in the span and on one of the archive's slots."""
    start, end, origin = (np.datetime64(t.replace(tzinfo=None), "s") for t in (span.start, span.end, config.origin))
    return bool(start <= time < end and (time - origin) % np.timedelta64(config.cadence_minutes, "m") == 0)


def _listing(files: Any, root: str, folder: str, config: IngestConfig) -> dict[str, dict[str, Any]]:
    def attempt() -> dict[str, dict[str, Any]]:
        files.invalidate_cache()
        try:
            found: dict[str, dict[str, Any]] = files.find(f"{root}/{folder}", detail=True)
        except FileNotFoundError:
            return {}
        return found

    try:
        return remote.retried(attempt, config, f"{config.source}/{folder}")
    except UnavailableGranule as error:
        raise remote.refusal(config, _cause(error)) from error


def _cause(error: BaseException) -> Exception:
    cause = error.__cause__
    return cause if isinstance(cause, Exception) else Exception(str(error))


def _check_root(files: Any, root: str, config: IngestConfig) -> None:
    """Tell an empty source (which is the caller's to judge) from one that does not exist."""
    try:
        remote.retried(lambda: files.ls(root, detail=False), config, config.source)
    except UnavailableGranule as error:
        raise remote.refusal(config, _cause(error)) from error


def fetch(granule: Granule, config: IngestConfig) -> bytes:
    """The whole file, verified; raises `UnavailableGranule`."""
    return COURIER.fetch(granule, config) if config.source.startswith("s3://") else remote.fetch(granule, config)


@contextmanager
def opened(granule: Granule, config: IngestConfig, held: dict[str, bytes] | None = None) -> Iterator[Image]:
    """The granule as an image that decodes by windows; small files are fetched whole, large ones by blocks.

    `held` keeps the last whole file by its URL, for a next granule that lies in the same one.
    """
    held = {} if held is None else held
    if cf_zarr.is_store(config):
        yield cf_zarr.open_image(granule, config)
        return
    ranged: list[remote.Blocks] = []

    def open_one(part: Granule) -> hdf5.File:
        if _is_small(part, config):
            if part.url not in held:
                held.clear()
                held[part.url] = fetch(part, config)
            return hdf5.opened(held[part.url])
        ranged.append(remote.Blocks(part, config))
        return hdf5.opened(ranged[-1])

    yield checked(granule, _Files(granule.parts or (granule,), open_one), config)
    if not all(remote.retried(blocks.unchanged, config, granule.url) for blocks in ranged):
        raise UnavailableGranule(Reason.VANISHED, f"{granule.url} was replaced while it was read")


def checked(granule: Granule, files: Sequence[hdf5.File], config: IngestConfig) -> Image:
    """The system's reader on opened files; whatever else a damaged header makes it raise is `CorruptGranule` too."""
    with hdf5.guarded("header"):
        return system(config).open(granule, files, config)


class _Files(Sequence[hdf5.File]):
    """The files of a granule, each fetched and opened when it is first taken."""

    def __init__(self, parts: Sequence[Granule], open_one: Callable[[Granule], hdf5.File]) -> None:
        self._parts, self._open, self._opened = parts, open_one, dict[int, hdf5.File]()

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, i: Any) -> Any:
        if i not in self._opened:
            self._opened[i] = self._open(self._parts[range(len(self))[i]])
        return self._opened[i]


def _is_small(part: Granule, config: IngestConfig) -> bool:
    return part.size <= config.whole_megabytes * 1_000_000


def read_frame(granule: Granule, config: IngestConfig, target: Grid, held: dict[str, bytes] | None = None) -> Frame:
    """One granule, fetched (or `held`, as `opened` has it), checked, calibrated and brought onto the archive's grid.

    Raises `CorruptGranule` with its reason, and `UnavailableGranule` where it could not be fetched.
    """
    with opened(granule, config, held) as image, hdf5.guarded("aligning"):
        return grid.align(image, target)


def archive_grid(granules: Sequence[Granule], config: IngestConfig) -> Grid:
    """The grid an archive of these granules gets: the coarsest channel's, cut to the area, in blocks.

    Of a sector that is steered it holds all of the area, wherever the sector may lie in it now, and later.

    A few granules vote, since the first one of all may be the one with a wrong grid. Raises `NothingReadableError`
    where none of a configured channel can be read: a missing one may be the coarsest, and the grid is made once. Raises
    another `FewcastError` for an area or a block that does not suit the grid.
    """
    failures: dict[str, list[CorruptGranule]] = {name: [] for name in config.channels}
    grids = {
        name: _vote((granule for granule in granules if granule.channel == name), config, failures[name])
        for name in config.channels
    }
    readable = [g for g in grids.values() if g is not None]
    missing = [name for name, found in grids.items() if found is None]
    if missing:
        of_these = f" of {', '.join(missing)}" if readable else ""
        what = f"{config.source} holds nothing{of_these} that can be read"
        first = next((failure for name in missing for failure in failures[name]), None)
        found = str(first) if first else f"no granule of {', '.join(missing)} in the time range"
        refusal = NothingReadableError(
            what, found=found, mend="check ingest.source, system, sector, channels and times"
        )
        if first and all(
            failures[name] and {failure.reason for failure in failures[name]} == {Reason.UNREACHABLE}
            for name in missing
        ):
            refusal.away = remote.refusal(config, first)
        raise refusal
    whole = max(readable, key=lambda g: g.spacing)
    if config.area and (config.system, config.sector) in STEERED:
        whole = grid.over_the_disk(whole)
    rows, columns = area.window(whole, area.bounds(config.area))
    cut = whole.window(rows, columns)
    if min(cut.shape) < config.block:
        raise FewcastError(
            "ingest.block is larger than the image",
            found=f"{config.block} for {cut.shape}",
            mend="choose a smaller block",
        )
    return grid.coarsen(cut, config.block)


def _vote(granules: Iterable[Granule], config: IngestConfig, failures: list[CorruptGranule]) -> Grid | None:
    votes: list[tuple[Grid, int]] = []
    total = 0
    for granule, _ in zip(granules, range(TRIES), strict=False):
        try:
            with opened(granule, config) as image:
                found = image.grid
        except CorruptGranule as error:
            failures.append(error)
            continue
        total += 1
        for i, (other, count) in enumerate(votes):
            if grid.same_grid(found, other):
                votes[i] = (other, count + 1)
                break
        else:
            votes.append((found, 1))
        if total == VOTES:
            break
    return max(votes, key=lambda vote: vote[1])[0] if votes else None
