"""New frames of a slot into its shard, beside the frames that it already serves."""

from collections.abc import Set
from typing import TYPE_CHECKING

from core.archive import shard
from core.archive.layout import SERVED
from core.satellite.granule import Kind

if TYPE_CHECKING:
    from core.archive.archive import Archive


def put_beside(archive: "Archive", kind: Kind, slot: int, codes: shard.Codes, replaced: Set[str]) -> list[str]:
    """Put the codes (C, Y, X) of a slot, filled in with the channels that count as data and are not replaced.

    Returns those of them that are damaged, and so lost.
    """
    lost = _keep(archive, kind, slot, codes, replaced)
    archive.objects.put(archive.key(kind, slot), shard.encode(codes))
    return lost


def _keep(archive: "Archive", kind: Kind, slot: int, codes: shard.Codes, replaced: Set[str]) -> list[str]:
    (status,) = archive.status_of([slot])
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
