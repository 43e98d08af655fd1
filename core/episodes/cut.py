"""Episode specifications to pixels: neighbours in time and space are cut from one common slab of the archive."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.archive.shard import CHUNK
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

    Order the episodes by time: they share a slab where that is small and costs less to read than each of them apart,
    and are halved until it does.
    """
    side = tile + 2 * margin
    slots = [slots_of(spec, timing) for spec in specs]
    wanted = sorted({int(slot) for one in slots for slot in one.ravel()})
    boxes = np.array([(spec.y0 - margin, spec.y0 - margin + side, spec.x0 - margin, spec.x0 - margin + side)
                      for spec in specs])  # fmt: skip
    box = (*(boxes[:, 0].min(), boxes[:, 1].max()), *(boxes[:, 2].min(), boxes[:, 3].max()))
    together = len(wanted) * _area(box)
    apart = sum(len(np.unique(one)) * _area(own) for one, own in zip(slots, boxes, strict=True))
    if len(specs) > 1 and (together > apart or 2 * together * len(frames.channels) > SLAB_BYTES):
        middle = len(specs) // 2
        yield from cut(frames, specs[:middle], timing, tile, margin)
        yield from cut(frames, specs[middle:], timing, tile, margin)
        return
    slab = frames.codes(wanted, slice(box[0], box[1]), slice(box[2], box[3]))
    for own, its in zip(boxes, slots, strict=True):
        y, x = own[0] - box[0], own[2] - box[2]
        yield slab[np.searchsorted(wanted, its), :, y : y + side, x : x + side]


def _area(box: Sequence[int]) -> int:
    """Pixels that reading a box (y, y, x, x) decodes: those of all the chunks that it touches."""
    rows, columns = (-(-stop // CHUNK) - start // CHUNK for start, stop in (box[:2], box[2:]))
    return int(rows * columns) * CHUNK * CHUNK
