"""An area larger than the training tile: overlapping tiles that blend without seams.

The network is run on tiles of the size it was trained on, because its normalisation layers see the whole tile. All
tiles share each weight sample, so a member stays one draw of the weights over the whole area, and since blending is
linear with weights that sum to one, neighbouring tiles meet smoothly.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from core.verify.mixture import Mixture

OVERLAP = 0.25  # of the tile's side; 1.8 times the work of bare tiles


def tile_origins(shape: tuple[int, int], tile: int) -> list[tuple[int, int]]:
    """Top left corners of equal tiles that cover the area with at least OVERLAP between neighbours.

    Along a side shorter than the tile there is one tile, which reaches beyond the area.
    """
    along = []
    for extent in shape:
        count = 1 if extent <= tile else 1 + int(np.ceil((extent - tile) / (tile * (1 - OVERLAP))))
        along.append(np.linspace(0, max(extent - tile, 0), count).round().astype(int).tolist())
    return list(product(*along))


def blend_weight(tile: int) -> Tensor:
    """Weight (tile, tile) of a tile's pixels: one inside, falling as a squared sine over the overlap, never zero."""
    distance = torch.minimum(torch.arange(tile), torch.arange(tile).flip(0)) + 0.5
    ramp = torch.sin(0.5 * torch.pi * (distance / max(OVERLAP * tile, 1)).clamp(max=1)).square()
    return ramp[:, None] * ramp[None]


def mosaic(
    predict: Callable[[Tensor], Mixture],
    cut: Callable[[int, int], Tensor],
    shape: tuple[int, int],
    tile: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    together: int = 4,
) -> Mixture:
    """The mixture over an area (Y, X): means (S, L*C, Y, X) and std that broadcasts to them.

    `cut(y, x)` gives the inputs (I, tile + 2m, tile + 2m) of the tile at that corner, and `predict` the mixture of a
    stack of `together` of them, with the same weight samples on every call. A std without pixels of its own stays
    (L*C, 1, 1).
    """
    weight, origins = blend_weight(tile), tile_origins(shape, tile)
    height, width = (max(extent, tile) for extent in shape)
    total = means = std = torch.empty(0)
    for done in range(0, len(origins), together):
        part = origins[done : done + together]
        mixture = predict(torch.stack([cut(y, x) for y, x in part]))
        per_pixel = mixture.std.ndim == mixture.means.ndim
        if done == 0:
            samples, _, outputs = mixture.means.shape[:3]
            weight = weight.to(mixture.means.device)
            total = weight.new_zeros(height, width)
            means = weight.new_zeros(samples, outputs, height, width)
            std = weight.new_zeros(len(mixture.std), outputs, height, width) if per_pixel else mixture.std
        for i, (y, x) in enumerate(part):
            place = (..., slice(y, y + tile), slice(x, x + tile))
            total[place[1:]] += weight
            means[place] += weight * mixture.means[:, i]
            if per_pixel:
                std[place] += weight * mixture.std[:, i]
        progress(min(done + together, len(origins)), len(origins))
    area = (..., slice(shape[0]), slice(shape[1]))
    means /= total
    if std.ndim == means.ndim:
        std /= total
        return Mixture(means[area], std[area])
    return Mixture(means[area], std)


def spread_tiles(origins: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """`count` of the tiles, spread evenly over their order."""
    places = np.linspace(0, len(origins) - 1, min(count, len(origins))).round().astype(int)
    return [origins[i] for i in dict.fromkeys(places.tolist())]
