"""New frames of a slot into its shard, beside the frames that it already serves."""

from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from core.archive import shard
from core.archive.bucket import ReplacedError
from core.archive.layout import SERVED, Status
from core.archive.lock import require_held
from core.errors import FewcastError
from core.satellite.granule import Kind

if TYPE_CHECKING:
    from core.archive.archive import Archive

TRIES = 5
NOTHING_STORED = (Status.UNSEEN, Status.ABSENT)


def put_beside(
    archive: "Archive", kind: Kind, slot: int, codes: shard.Codes, replaced: Set[str], hold: str
) -> list[str]:
    """Put the codes (C, Y, X) of a slot, filled in with the channels that count as data and are not replaced.

    Returns those of them that are damaged, and so lost. The shard is put over the version that was there while the
    archive was held for sure: a writer that was suspended, and has lost its hold, replaces nothing of the next one's.
    A slot of which nothing is known should have no shard, and none is looked for.
    """
    key, columns = archive.key(kind, slot), [archive.channels.index(name) for name in archive.kinds[kind]]
    for trial in range(TRIES):
        (status,) = archive.status_of([slot])
        over = ""
        if trial or not np.isin(status[columns], NOTHING_STORED).all():
            over = archive.objects.tag(key)
            if hold:
                require_held(archive.objects, hold)  # after the look: what was there is from before any other
        lost = _keep(archive, kind, slot, codes, replaced, status)
        try:
            archive.objects.put(key, shard.encode(codes), over)
        except ReplacedError:
            continue  # by one killed before it could say so, a try of our own that was done, or the next writer
        return lost
    raise FewcastError(
        f"{key} of the archive {archive.url} is being written",
        found=f"another version of it at each of {TRIES} tries",
        mend="end the other writer, then run again",
    )


def _keep(
    archive: "Archive", kind: Kind, slot: int, codes: shard.Codes, replaced: Set[str], status: NDArray[np.uint8]
) -> list[str]:
    lost = []
    for position, name in enumerate(archive.kinds[kind]):
        if status[archive.channels.index(name)] not in SERVED or name in replaced:
            continue
        window = slice(position, position + 1)
        try:
            kept = archive.read_shard(kind, slot, slice(None), slice(None), window)
        except shard.DamagedError:
            lost.append(name)
            continue
        if kept is not None:
            codes[window] = kept
    return lost
