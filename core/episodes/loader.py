"""Episodes to torch batches: a deterministic order, decoded and normalised, prefetched in the background."""

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.config.train import ExtraInput
from core.episodes.extra import ExtraPlanes, in_order, plane_names
from core.episodes.frames import MISSING
from core.episodes.store import EpisodeStore

Number = TypeVar("Number", np.uint16, np.float32)
SYMMETRIES = 8  # of a square: four right-angle turns, each with and without a flip


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows (E, N) of a set of episodes, normalised; where a pixel is missing it is 0 and masked.

    x: (E, N, I, H + 2m, W + 2m) k*C inputs in (frame, channel) order, then one plane with the fraction of them that is
    observed at the pixel, then the planes of `extra` (see `core.episodes.extra`). y: (E, N, L*C, H, W) targets in
    (lead, channel) order, and mask: True where they are observed. init_time: (E, N) datetime64[ns], the time of the
    last input frame, UTC.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    init_time: NDArray[np.datetime64]
    extra: tuple[ExtraInput, ...] = ()

    def only(self, extra: Sequence[ExtraInput] = ()) -> "Windows":
        """The same windows as a network sees them that takes these extra inputs, and no others."""
        wanted = in_order(extra)
        if wanted == self.extra:
            return self
        missing = set(wanted) - set(self.extra)
        if missing:
            raise ValueError(f"these windows were loaded without {', '.join(sorted(missing))}")
        axis = self.x.ndim - 3
        frames = self.x.shape[axis] - len(plane_names(self.extra))
        kept, first = list(range(frames)), frames
        for name in self.extra:
            count = len(plane_names([name]))
            kept += range(first, first + count) if name in wanted else ()
            first += count
        x = self.x.index_select(axis, torch.tensor(kept, device=self.x.device))
        return replace(self, x=x, extra=wanted)

    def to(self, device: torch.device | str) -> "Windows":
        """The same windows on a device, without waiting for a copy from pinned memory."""
        x, y, mask = (tensor.to(device, non_blocking=True) for tensor in (self.x, self.y, self.mask))
        return replace(self, x=x, y=y, mask=mask)

    def pin(self) -> "Windows":
        return replace(self, x=self.x.pin_memory(), y=self.y.pin_memory(), mask=self.mask.pin_memory())


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """Support and query windows of the episodes `ids`."""

    support: Windows
    query: Windows
    ids: tuple[int, ...]

    def to(self, device: torch.device | str) -> "EpisodeBatch":
        return EpisodeBatch(self.support.to(device), self.query.to(device), self.ids)

    def pin(self) -> "EpisodeBatch":
        return EpisodeBatch(self.support.pin(), self.query.pin(), self.ids)


class Loader:
    """Batches of a split as a function of (seed, step) alone, so that a resumed run needs to know only its step.

    `batch_size` episodes make one step over all ranks; a rank gets its contiguous share of them. Every epoch goes
    through all episodes in a new order. With `augment`, each episode of a batch is flipped and turned by one of the
    square's eight symmetries, the same for all of its windows; `load` never augments. `extra` inputs are computed for
    each window's init time and place, and turned with it.
    """

    def __init__(
        self,
        store: EpisodeStore,
        *,
        split: str,
        holdout: str | None = None,
        batch_size: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augment: bool = False,
        extra: Sequence[ExtraInput] = (),
    ) -> None:
        self.store = store
        self.extra = in_order(extra)
        self._planes = ExtraPlanes(store.grid, self.extra) if self.extra else None
        self.episodes = store.ids(split, holdout)
        if not len(self.episodes):
            raise ValueError(f"{store.url} has no episode of split {split!r}, holdout {holdout!r}")
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(f"{batch_size} episodes a step cannot be shared by rank {rank} of {world_size}")
        self.batch_size, self.seed, self.augment = batch_size, seed, augment
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._order: tuple[int, NDArray[np.int64]] = (-1, self.episodes)

    def __len__(self) -> int:
        """Episodes of the split."""
        return len(self.episodes)

    def ids(self, step: int) -> tuple[int, ...]:
        """The episodes of this rank at a step (counted from 0)."""
        places = range(step * self.batch_size, (step + 1) * self.batch_size)[self.share]
        return tuple(int(self._epoch(i // len(self))[i % len(self)]) for i in places)

    def batch(self, step: int) -> EpisodeBatch:
        """This rank's episodes of a step."""
        symmetries = None
        if self.augment:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, 2 * step + 1]))
            symmetries = rng.integers(SYMMETRIES, size=self.batch_size)[self.share].tolist()
        return self._decoded(self.ids(step), symmetries)

    def load(self, ids: Sequence[int]) -> EpisodeBatch:
        """Episodes by id, of any split."""
        return self._decoded(tuple(int(i) for i in ids), None)

    def stream(self, start_step: int, stop_step: int, ahead: int = 2) -> Iterator[EpisodeBatch]:
        """Batches of steps [start, stop), read `ahead` of their use by a thread, pinned where there is a GPU."""
        ready: queue.Queue[EpisodeBatch | BaseException] = queue.Queue(maxsize=ahead)
        stopped = threading.Event()
        pin = torch.cuda.is_available()

        def put(item: EpisodeBatch | BaseException) -> None:
            while not stopped.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for step in range(start_step, stop_step):
                    if stopped.is_set():
                        return
                    batch = self.batch(step)
                    put(batch.pin() if pin else batch)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, name="episodes", daemon=True)
        thread.start()
        try:
            for _ in range(start_step, stop_step):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()
            thread.join()

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        known, order = self._order  # one read: `stream` works in another thread
        if known != epoch:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, 2 * epoch]))
            order = rng.permutation(self.episodes)
            self._order = (epoch, order)
        return order

    def _decoded(self, ids: tuple[int, ...], symmetries: list[int] | None) -> EpisodeBatch:
        codes = self.store.read(ids)
        if symmetries is not None:
            for episode, symmetry in enumerate(symmetries):
                codes[episode] = turned(codes[episode], symmetry)
        support, query = self.store.init_times(ids)
        extra = self._extra_planes(ids, np.concatenate([support, query], axis=1), symmetries)
        n = self.store.spec.support_windows
        return EpisodeBatch(
            self._windows(codes[:, :n], support, extra[:, :n]), self._windows(codes[:, n:], query, extra[:, n:]), ids
        )

    def _extra_planes(
        self, ids: tuple[int, ...], init_time: NDArray[np.datetime64], symmetries: list[int] | None
    ) -> NDArray[np.float32]:
        """The extra planes (E, N, P, H + 2m, W + 2m) of some episodes, turned as their frames are."""
        *_, height, width = self.store.spec.block
        planes = np.empty((*init_time.shape, len(plane_names(self.extra)), height, width), np.float32)
        if self._planes is None:
            return planes
        places = self.store.catalog[["y0", "x0"]].to_numpy()[list(ids)] - self.store.spec.margin_pixels
        for episode, (y0, x0) in enumerate(places.tolist()):
            found = self._planes.at(init_time[episode], y0, x0, height, width)
            planes[episode] = found if symmetries is None else turned(found, symmetries[episode])
        return planes

    def _windows(
        self, codes: NDArray[np.uint16], init_time: NDArray[np.datetime64], extra: NDArray[np.float32]
    ) -> Windows:
        """Codes (E, N, frame, channel, y, x) and extra planes to tensors."""
        spec, scaled = self.store.spec, self.store.normalisation
        episodes, windows, _, channels, height, width = codes.shape
        gain = (np.array(spec.scale) / scaled.std).astype(np.float32)[:, None, None]
        shift = ((np.array(spec.offset) - scaled.mean) / scaled.std).astype(np.float32)[:, None, None]
        inputs, m = spec.input_frames, spec.margin_pixels
        planes = inputs * channels
        x = np.empty((episodes, windows, planes + 1 + extra.shape[2], height, width), np.float32)
        x[:, :, planes + 1 :] = extra
        before = codes[:, :, :inputs]
        values = x[:, :, :planes].reshape(before.shape)  # a copy would be lost, but splitting an axis is a view
        seen = before != MISSING
        np.multiply(before, gain, out=values)
        values += shift
        values *= seen
        x[:, :, planes] = seen.mean(axis=(2, 3), dtype=np.float32)
        after = codes[:, :, inputs:, :, m : height - m, m : width - m]
        mask = after != MISSING
        y = np.multiply(after, gain, dtype=np.float32)
        y += shift
        y *= mask
        flat = (episodes, windows, spec.target_frames * channels, height - 2 * m, width - 2 * m)
        return Windows(
            torch.from_numpy(x),
            torch.from_numpy(y.reshape(flat)),
            torch.from_numpy(mask.reshape(flat)),
            init_time,
            self.extra,
        )


def turned(codes: NDArray[Number], symmetry: int) -> NDArray[Number]:
    """Frames (..., y, x) turned by `symmetry % 4` right angles, and then mirrored where it is 4 or more."""
    rotated = np.rot90(codes, symmetry % 4, axes=(-2, -1))
    return np.ascontiguousarray(rotated[..., ::-1] if symmetry >= 4 else rotated)
