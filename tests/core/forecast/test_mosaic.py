from itertools import pairwise

import pytest
import torch

from core.forecast.mosaic import OVERLAP, blend_weight, mosaic, spread_tiles, tile_origins
from core.verify.mixture import Mixture


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (50, 33), (9, 30)])
def test_tiles_cover_the_area_with_overlap(shape):
    seen = torch.zeros(*(max(n, 16) for n in shape))
    rows, columns = (sorted({origin[axis] for origin in tile_origins(shape, 16)}) for axis in (0, 1))
    for y, x in tile_origins(shape, 16):
        seen[y : y + 16, x : x + 16] += 1
    assert (seen > 0).all()
    for places in (rows, columns):
        assert all(later - earlier <= 16 * (1 - OVERLAP) for earlier, later in pairwise(places))


@pytest.mark.parametrize("per_pixel", [False, True])
def test_a_field_that_tiles_agree_on_is_reproduced(per_pixel):
    field = torch.randn(3, 2, 40, 53, generator=torch.Generator().manual_seed(0))

    def cut(y, x):
        return field[:, :, y : y + 16, x : x + 16].flatten(0, 1)

    def predict(x):
        means = x.unflatten(1, (3, 2)).transpose(0, 1)
        return Mixture(means, means.abs() + 1 if per_pixel else torch.tensor([1.0, 2.0])[:, None, None])

    found = mosaic(predict, cut, (40, 53), 16)
    torch.testing.assert_close(found.means, field)
    expected = field.abs() + 1 if per_pixel else torch.tensor([1.0, 2.0])[:, None, None]
    torch.testing.assert_close(found.std, expected)


def test_blending_leaves_no_seam():
    """Tiles that each have an offset of their own meet without a step larger than the ramp's."""
    count = iter(range(1000))

    def predict(x):
        offsets = torch.tensor([float(next(count) % 2) for _ in range(len(x))])
        return Mixture(offsets[None, :, None, None, None].expand(1, len(x), 1, 32, 32), torch.tensor(1.0))

    field = mosaic(predict, lambda y, x: torch.zeros(1, 32, 32), (32, 104), 32).means[0, 0]
    assert float((field[:, 1:] - field[:, :-1]).abs().max()) < 0.3
    assert float(blend_weight(32).min()) > 0


def test_spread_tiles_picks_some_or_all():
    origins = tile_origins((64, 64), 16)
    assert len(spread_tiles(origins, 4)) == 4
    assert spread_tiles(origins[:2], 4) == origins[:2]
