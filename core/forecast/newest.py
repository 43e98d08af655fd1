"""The newest frames of an archive, cut and normalised as a trained model sees them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from core.archive import SERVED, Archive
from core.config import ForecastConfig
from core.episodes.extra import ExtraPlanes
from core.episodes.frames import MISSING, Frames
from core.errors import FewcastError
from core.forecast.mosaic import spread_tiles, tile_origins
from core.meta.checks import Examples
from core.model import Model
from core.satellite import area as areas
from core.satellite.granule import Kind


@dataclass(frozen=True)
class Newest:
    """An area of an archive as a model sees it: which slots may start a forecast, and normalised windows of tiles."""

    frames: Frames
    model: Model
    area: tuple[slice, slice]
    step: int  # slots between the frames of a window
    config: ForecastConfig

    @classmethod
    def open(cls, config: ForecastConfig, model: Model) -> "Newest":
        frames = Frames.open(config.archive, model.spec.channels)
        area = _area(config, frames.archive)
        cadence = frames.archive.cadence_minutes
        if model.spec.lead_minutes[0] % cadence:
            raise FewcastError(
                f"the archive {config.archive} does not fit the run {config.run}",
                found=f"frames every {cadence} minutes, {model.spec.lead_minutes[0]} trained with",
                mend="give the archive that the run's episodes were built from",
            )
        return cls(frames, model, area, model.spec.lead_minutes[0] // cadence, config)

    @property
    def shape(self) -> tuple[int, int]:
        return self.area[0].stop - self.area[0].start, self.area[1].stop - self.area[1].start

    @property
    def area_in_words(self) -> str:
        rows, columns = self.area
        return f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}"

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each channel is of, in the order of the run's channels."""
        return tuple(self.frames.archive.kind_of[name] for name in self.model.spec.channels)

    @property
    def newest_slot(self) -> int | None:
        """The newest slot of which anything has come, whole or not."""
        for day in reversed(self.frames.archive.days.recorded()):
            rows = np.flatnonzero(np.isin(self.frames.archive.days.day("status", day), SERVED).any(1))
            if rows.size:
                return int(rows[-1]) + day * self.frames.archive.slots_per_day
        return None

    def _starts(self, last: int, first_step: int, last_step: int) -> np.ndarray:
        """Slots t up to `last` whose frames t + first_step .. t + last_step (in steps of a window) are all usable.

        It looks back as far as `forecast.lookback_hours`, so that an archive of years costs no more than a young one.
        """
        cadence = self.frames.archive.cadence_minutes
        reach = -(-60 * self.config.lookback_hours // cadence)
        first = max(last - int(reach) + min(first_step, 0) * self.step, 0)
        usable = self.frames.usable_of(range(first, last + 1), allow_partial=True)
        starts = np.arange(first, last + 1)
        good = np.ones(len(starts), bool)
        for offset in range(first_step, last_step + 1):
            place = starts + offset * self.step - first
            inside = (place >= 0) & (place < len(usable))
            good &= inside & usable[np.clip(place, 0, len(usable) - 1)]
        return starts[good]

    def init_slot(self) -> int:
        """The newest slot that ends k usable frames in a row, or the one that is configured, if it does."""
        asked = self.config.init_time
        last = self._slot(asked) if asked else self.newest_slot
        ready = self._starts(last, 1 - self.model.spec.input_frames, 0) if last is not None else np.empty(0, int)
        if asked:
            ready = ready[ready == last]
        if len(ready) == 0:
            raise FewcastError(
                f"the archive {self.frames.archive.url} has no frames to start from"
                + (f" at {asked}" if asked else ""),
                found=f"no {self.model.spec.input_frames} usable frames in a row"
                + ("" if asked else f" in its last {self.config.lookback_hours:g} hours"),
                mend="ingest more, or choose another forecast.init_time",
            )
        return int(ready[-1])

    def superseded(self, init: int, before: np.datetime64) -> list[int]:
        """Slots after `before` and before `init` that could have started a forecast, oldest first."""
        ready = self._starts(init, 1 - self.model.spec.input_frames, 0)
        times = self.frames.archive.times
        return [int(slot) for slot in ready if slot < init and times[slot] > before]

    def _slot(self, text: str) -> int:
        try:
            return self.frames.archive.slot(np.datetime64(text.removesuffix("Z").strip().replace(" ", "T"), "s"))
        except ValueError as error:
            raise FewcastError(
                "forecast.init_time names no slot of the archive", found=repr(text), mend=str(error)
            ) from error

    def support_slots(self, init: int, count: int) -> list[int]:
        """Init slots of the newest complete windows whose targets had all come by `init`, oldest first."""
        spec = self.model.spec
        chosen = self._starts(init, 1 - spec.input_frames, spec.target_frames)
        return [int(slot) for slot in chosen[len(chosen) - min(count, len(chosen)) :]]

    def slots(self, init: int, support: list[int]) -> list[int]:
        """Every slot whose frames a forecast from `init` is made of, with those of its support windows, in order."""
        spec = self.model.spec
        steps = {init: range(1 - spec.input_frames, 1)}
        steps |= {slot: range(1 - spec.input_frames, spec.target_frames + 1) for slot in support}
        return sorted({slot + step * self.step for slot, each in steps.items() for step in each})

    def inputs(self, init: int) -> np.ndarray:
        spec = self.model.spec
        slots = [init + offset * self.step for offset in range(1 - spec.input_frames, 1)]
        return self._padded(slots, spec.margin_pixels)

    def seen(self, codes: np.ndarray) -> np.ndarray:
        """Which pixels (Y, X) of the area any of the frames has in any channel, from `inputs(init)`."""
        margin, (height, width) = self.model.spec.margin_pixels, self.shape
        return (codes[..., margin : margin + height, margin : margin + width] != MISSING).any((0, 1))

    def cut(self, codes: np.ndarray, init: int, y: int, x: int) -> Tensor:
        """Inputs (I, tile + 2m, tile + 2m) of the tile at (y, x) of the area, from `inputs(init)`.

        k*C planes, then their validity, then what the model sees beside the frames at the time of slot `init`.
        """
        margin = self.model.spec.margin_pixels
        side = self.model.spec.tile_pixels + 2 * margin
        values, seen = self._normalised(codes[..., y : y + side, x : x + side])
        top, left = self.area[0].start + y - margin, self.area[1].start + x - margin
        extra = self._extra.at(self.frames.archive.times[init : init + 1], top, left, side, side)[0]
        return torch.cat([values.flatten(0, 1), seen.float().mean((0, 1))[None], torch.from_numpy(extra)])

    @cached_property
    def _extra(self) -> ExtraPlanes:
        return ExtraPlanes(self.frames.archive.grid, self.model.extra_inputs)

    def support(self, slots: list[int]) -> Examples:
        """Support windows, each at a few tiles spread over the area: x (N, I, ...), y and mask (N, L*C, ...)."""
        spec = self.model.spec
        tiles = spread_tiles(tile_origins(self.shape, spec.tile_pixels), self.config.support_tiles)
        x, targets, masks = [], [], []
        for slot in slots:
            before = self.inputs(slot)
            after = self._padded([slot + (lead + 1) * self.step for lead in range(spec.target_frames)], 0)
            for top, left in tiles:
                x.append(self.cut(before, slot, top, left))
                part = after[..., top : top + spec.tile_pixels, left : left + spec.tile_pixels]
                values, seen = self._normalised(part)
                targets.append(values.flatten(0, 1))
                masks.append(seen.flatten(0, 1))
        side, planes = spec.tile_pixels, len(self.model.input_planes)
        outer = side + 2 * spec.margin_pixels
        if not x:
            empty = torch.empty(0, spec.target_frames * len(spec.channels), side, side)
            return Examples(torch.empty(0, planes, outer, outer), empty, empty.bool())
        return Examples(torch.stack(x), torch.stack(targets), torch.stack(masks))

    def _padded(self, slots: list[int], margin: int) -> np.ndarray:
        """Codes (T, C, Y, X) of the area with its margin, out to at least one tile; missing beyond the archive."""
        tile = self.model.spec.tile_pixels
        (top, left), (height, width) = (s.start - margin for s in self.area), (max(n, tile) for n in self.shape)
        bottom, right = top + height + 2 * margin, left + width + 2 * margin
        rows, columns = self.frames.archive.shape
        inside = slice(max(top, 0), min(bottom, rows)), slice(max(left, 0), min(right, columns))
        codes = self.frames.codes(slots, *inside)
        pad = ((inside[0].start - top, bottom - inside[0].stop), (inside[1].start - left, right - inside[1].stop))
        return np.pad(codes, ((0, 0), (0, 0), *pad), constant_values=MISSING)

    def _normalised(self, codes: np.ndarray) -> tuple[Tensor, Tensor]:
        spec = self.model.spec
        gain, shift = self.frames.scale / np.array(spec.std), (self.frames.offset - np.array(spec.mean)) / spec.std
        seen = codes != MISSING
        values = codes * gain[:, None, None].astype(np.float32) + shift[:, None, None].astype(np.float32)
        return torch.from_numpy(np.where(seen, values, 0).astype(np.float32)), torch.from_numpy(seen)


def _area(config: ForecastConfig, archive: Archive) -> tuple[slice, slice]:
    """Rows and columns of the archive that `region`, or y0, x0, height and width, ask for."""
    if config.region:
        return areas.window(archive.grid, areas.bounds(config.region))
    rows, columns = archive.shape
    bottom = config.y0 + config.height if config.height else rows
    right = config.x0 + config.width if config.width else columns
    if not (config.y0 < bottom <= rows and config.x0 < right <= columns):
        raise FewcastError(
            "the area lies outside the archive",
            found=f"rows {config.y0} to {bottom} and columns {config.x0} to {right} of {rows} x {columns}",
            mend="choose forecast.y0, x0, height and width inside it",
        )
    return slice(config.y0, bottom), slice(config.x0, right)
