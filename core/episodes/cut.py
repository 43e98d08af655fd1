"""Episode specifications to pixels: neighbours in time and space are cut from one common slab of the archive."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.episodes.frames import Frames
from core.episodes.sampler import EpisodeSpec
from core.episodes.spans import Timing

SLAB_BYTES = 64 * 2**20


def slots_of(spec: EpisodeSpec, timing: Timing) -> NDArray[np.int64]:
    """The slots (window, frame) of an episode, support windows first."""
    return np.array([*spec.support, *spec.query], np.int64)[:, None] + timing.offsets


def cut(
    frames: Frames, specs: Sequence[EpisodeSpec], timing: Timing, tile: int, margin: int
) -> Iterator[NDArray[np.uint16]]:
    """Each episode's codes (window, frame, channel, y, x), margins included, in the order given.

    Order the episodes by time and place: consecutive ones share a slab, as long as it stays small.
    """
    side = tile + 2 * margin
    slots = [slots_of(spec, timing) for spec in specs]
    first = 0
    while first < len(specs):
        wanted = set(slots[first].ravel().tolist())
        box = _box(specs[first], side, margin)
        last = first + 1
        while last < len(specs):
            more = wanted | set(slots[last].ravel().tolist())
            wider = _union(box, _box(specs[last], side, margin))
            if 2 * len(more) * len(frames.channels) * (wider[1] - wider[0]) * (wider[3] - wider[2]) > SLAB_BYTES:
                break
            wanted, box, last = more, wider, last + 1
        order = np.array(sorted(wanted))
        slab = frames.codes(order.tolist(), slice(box[0], box[1]), slice(box[2], box[3]))
        for spec, its in zip(specs[first:last], slots[first:last], strict=True):
            y, x = spec.y0 - margin - box[0], spec.x0 - margin - box[2]
            yield slab[np.searchsorted(order, its), :, y : y + side, x : x + side]
        first = last


def _box(spec: EpisodeSpec, side: int, margin: int) -> tuple[int, int, int, int]:
    y, x = spec.y0 - margin, spec.x0 - margin
    return y, y + side, x, x + side


def _union(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return min(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), max(a[3], b[3])
