"""Whether a run can forecast a store's episodes, and the way between the units that each normalises to."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.model import DataSpec
from core.verify.mixture import Mixture


def require_fit(run: str, spec: DataSpec, store: EpisodeStore) -> None:
    """Raise FewcastError where the store's windows are not of the shape that the run was trained on.

    Mean and std may differ: `Units` goes from one to the other.
    """
    there = DataSpec.of(store)
    names = [field.name for field in fields(DataSpec) if field.name not in ("mean", "std")]
    differing = [name for name in names if getattr(spec, name) != getattr(there, name)]
    if differing:
        raise FewcastError(
            f"the run {run} does not fit the episodes {store.url}",
            found="; ".join(f"{name} {getattr(spec, name)} in the run, {getattr(there, name)} in the store"
                            for name in differing),
            mend="evaluate on episodes built with the run's own",
        )  # fmt: skip


@dataclass(frozen=True)
class Units:
    """A run's normalised value = gain * the store's + shift, per channel; the map is exact."""

    gain: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def between(cls, spec: DataSpec, store: EpisodeStore) -> "Units":
        there = DataSpec.of(store)
        pairs = zip(spec.mean, spec.std, there.mean, there.std, strict=True)
        both = [(std_there / std, (mean_there - mean) / std) for mean, std, mean_there, std_there in pairs]
        return cls(*zip(*both, strict=True))

    @property
    def same(self) -> bool:
        """Whether there is nothing to do."""
        return all(gain == 1 for gain in self.gain) and not any(self.shift)

    def windows(self, found: Windows, input_frames: int) -> Windows:
        """Windows (N, ...) of the store as the run sees them. What is missing stays 0."""
        if self.same:
            return found
        x, y, mask = found.x, found.y, found.mask
        planes = input_frames * len(self.gain)
        frames, observed = x[:, :planes], x[:, planes : planes + 1]
        missing = (frames == 0) & (observed < 1)  # the plane says that some frame is missing, the 0 which
        mapped = torch.where(missing, 0, self._map(frames))
        return replace(found, x=torch.cat([mapped, x[:, planes:]], dim=1), y=torch.where(mask, self._map(y), 0))

    def forecast(self, mixture: Mixture) -> Mixture:
        """A forecast of the run, in the store's units."""
        if self.same:
            return mixture
        gain, shift = self._planes(mixture.means)
        return Mixture((mixture.means - shift) / gain, mixture.std / gain)

    def _map(self, values: Tensor) -> Tensor:
        gain, shift = self._planes(values)
        return gain * values + shift

    def _planes(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and shift (O, 1, 1) of planes in (frame or lead, channel) order."""
        repeats = like.shape[-3] // len(self.gain)
        gain, shift = (torch.tensor(v * repeats, dtype=like.dtype)[:, None, None] for v in (self.gain, self.shift))
        return gain, shift
