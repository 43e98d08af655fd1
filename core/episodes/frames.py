"""The archive as episodes see it: the chosen channels of all kinds, as stored codes, and which slots count."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.archive import SERVED, Archive, Status
from core.archive.bucket import RemoteObjects
from core.archive.objects import LocalObjects
from core.episodes.bulk import CONNECTIONS
from core.errors import FewcastError

MISSING = 65535
ASKED = 100  # objects of a bucket that are asked for one by one, since listing years of them takes longer


def shard_key(kind: str, slot: int) -> str:
    """Where the archive keeps one slot of one kind."""
    return f"{kind}/c/{slot}/0/0/0"


@dataclass(frozen=True)
class Frames:
    """Frames of some channels; codes are uint16 with value = code * scale + offset and 65535 where missing."""

    archive: Archive
    channels: tuple[str, ...]

    @classmethod
    def open(cls, url: str, channels: Sequence[str] = ()) -> "Frames":
        """The named channels of an archive, or all; `FewcastError` for a channel that it has not."""
        archive = Archive.open(url)
        chosen = tuple(channels) or archive.channels
        unknown = [name for name in chosen if name not in archive.kind_of]
        if unknown or len(set(chosen)) < len(chosen):
            raise FewcastError(
                f"the archive {url} cannot give the channels {', '.join(chosen)}",
                found=", ".join(archive.channels),
                mend="name each of those at most once in episodes.channels",
            )
        return cls(archive, chosen)

    @property
    def scale(self) -> NDArray[np.float64]:
        """Scale of each channel's codes."""
        return np.array([self.archive.packing(self.archive.kind_of[name]).scale for name in self.channels])

    @property
    def offset(self) -> NDArray[np.float64]:
        """Offset of each channel's codes."""
        return np.array([self.archive.packing(self.archive.kind_of[name]).offset for name in self.channels])

    def usable(self, allow_partial: bool) -> NDArray[np.bool_]:
        """Slots (time,) whose every channel is complete, or at least partial."""
        return self._accepted(self.archive.status, allow_partial)

    def usable_of(self, slots: Iterable[int], allow_partial: bool) -> NDArray[np.bool_]:
        """The same of some slots; only the days that hold them are read."""
        return self._accepted(self.archive.status_of(slots), allow_partial)

    def _accepted(self, table: NDArray[np.uint8], allow_partial: bool) -> NDArray[np.bool_]:
        status = table[:, [self.archive.channels.index(name) for name in self.channels]]
        accepted = SERVED if allow_partial else (Status.COMPLETE,)
        return np.asarray(np.isin(status, accepted).all(axis=1))

    def written(self, slots: Sequence[int]) -> list[str]:
        """A few words for each slot that change whenever one of its shards is written: sizes and times, or ETags."""
        kinds = list(dict.fromkeys(self.archive.kind_of[name] for name in self.channels))
        return [" ".join(words) for words in zip(*(self._written(kind, slots) for kind in kinds), strict=True)]

    def _written(self, kind: str, slots: Sequence[int]) -> list[str]:
        objects = self.archive.objects
        if isinstance(objects, LocalObjects):
            found = []
            for slot in slots:
                try:
                    status = os.stat(os.path.join(objects.root, shard_key(kind, slot)))
                    found.append(f"{status.st_size}:{status.st_mtime_ns}")
                except FileNotFoundError:
                    found.append("")
            return found
        assert isinstance(objects, RemoteObjects)
        if len(slots) <= ASKED:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                return list(pool.map(lambda slot: objects.tag(shard_key(kind, slot)), slots))
        listed = objects.listing(f"{kind}/c")
        return [str(listed.get(shard_key(kind, slot), {}).get("ETag", "")) for slot in slots]

    def codes(self, slots: Sequence[int], y: slice = slice(None), x: slice = slice(None)) -> NDArray[np.uint16]:
        """Stored codes (T, C, Y, X) of a window of the given slots."""
        height, width = (len(range(n)[part]) for n, part in zip(self.archive.shape, (y, x), strict=True))
        codes = np.empty((len(slots), len(self.channels), height, width), np.uint16)
        for kind in dict.fromkeys(self.archive.kind_of[name] for name in self.channels):
            stored = self.archive.kinds[kind]
            mine = [name for name in self.channels if name in stored]
            to, taken = [self.channels.index(name) for name in mine], [stored.index(name) for name in mine]
            # On a disk one at a time, since the caller has threads of its own; in a bucket many at once.
            size = 1 if isinstance(self.archive.objects, LocalObjects) else len(slots)
            for first in range(0, len(slots), size):
                part = slots[first : first + size]
                codes[first : first + size, to] = self.archive.read_packed(kind, part, y, x)[:, taken]
        return codes
