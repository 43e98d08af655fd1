"""Windows of many shards on a disk in one native call, which decompresses on every core without Python between."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.archive.objects import LocalObjects
from core.archive.shard import Codes, TornShardError, check

if TYPE_CHECKING:
    from zarrs.pipeline import CodecPipelineImpl


class Windows:
    """Reads the shards of the image arrays (T, C, Y, X) of an archive in a folder, with the pipeline of zarrs."""

    def __init__(self, objects: LocalObjects) -> None:
        self.objects = objects
        self._pipelines: dict[str, tuple[CodecPipelineImpl, list[int]]] = {}

    def read(self, array: str, keys: Sequence[str], y: slice, x: slice, out: Codes) -> list[int]:
        """Fill `out` (T, C, Y, X) with the window y, x of the shards of these keys; MISSING where there is none.

        Returns the positions that must be read again, each by itself: those that are damaged, or all of them where it
        is not said which, and those replaced meanwhile, since a shard is opened more than once and may be a mixture.
        """
        from zarrs.utils import ChunkItem

        pipeline, shard = self._pipeline(array)
        _, channels, height, width = out.shape
        window = [slice(0, 1), slice(0, channels), y, x]
        items = [
            ChunkItem(
                key=key,
                chunk_subset=window,
                chunk_shape=shard,
                subset=[slice(t, t + 1), slice(0, channels), slice(0, height), slice(0, width)],
                shape=out.shape,
            )
            for t, key in enumerate(keys)
        ]
        before = [self.objects.tag(key) for key in keys]
        try:
            pipeline.retrieve_chunks_and_apply_index(items, out)
        except Exception:  # its errors have no type of their own; our own decoder says what is wrong, and where
            return list(range(len(keys)))
        return [
            t for t, key in enumerate(keys) if not self._sound(key, shard, y, x) or self.objects.tag(key) != before[t]
        ]

    def _sound(self, key: str, shard: list[int], y: slice, x: slice) -> bool:
        """Whether the chunks of a window match their checksums, which zarrs looks at in whole shards alone."""
        _, channels, height, width = shard
        try:
            with self.objects.reader(key) as read:
                check(read, (channels, height, width), y, x)
        except TornShardError:
            return False
        return True

    def _pipeline(self, array: str) -> tuple["CodecPipelineImpl", list[int]]:
        """The pipeline of an array and the shape of its shards."""
        if array not in self._pipelines:
            from zarr.storage import LocalStore  # slow to import, and an ingest reads no windows
            from zarrs.pipeline import CodecPipelineImpl

            metadata = (self.objects.root / array / "zarr.json").read_text()
            pipeline = CodecPipelineImpl(metadata, LocalStore(self.objects.root), validate_checksums=True)
            self._pipelines[array] = pipeline, json.loads(metadata)["chunk_grid"]["configuration"]["chunk_shape"]
        return self._pipelines[array]
