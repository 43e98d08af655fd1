"""Tiles are checked by painting pixels."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import EpisodesConfig
from core.episodes.lattice import clear_positions, lattice, nearby
from core.errors import FewcastError

RANGES = {
    "train": [{"start": "2020-01-01", "end": "2020-02-01"}],
    "validation": [{"start": "2020-03-01", "end": "2020-04-01"}],
    "test": [{"start": "2020-05-01", "end": "2020-06-01"}],
}


def config(buffer: int = 0, modulus: int = 5, **changes: Any) -> EpisodesConfig:
    return EpisodesConfig(split={**RANGES, "buffer_pixels": buffer, "modulus": modulus}, **changes)


def painted(tiles: Any, made: EpisodesConfig, shape: tuple[int, int], grow: int = 0) -> np.ndarray:
    """How many footprints, grown on all sides, cover each pixel."""
    count = np.zeros((shape[0] + 400, shape[1] + 400), int)
    side = made.tile_pixels
    for tile in tiles.itertuples():
        reach = made.margin_pixels + grow
        count[
            200 + tile.y0 - reach : 200 + tile.y0 + side + reach, 200 + tile.x0 - reach : 200 + tile.x0 + side + reach
        ] += 1
    return count


@settings(max_examples=60, deadline=None)
@given(
    y=st.integers(40, 150), x=st.integers(40, 150), side=st.integers(8, 20), margin=st.integers(0, 6),
    buffer=st.integers(0, 9),
)  # fmt: skip
def test_footprints_stay_inside_and_apart(y: int, x: int, side: int, margin: int, buffer: int) -> None:
    made = config(buffer, tile_pixels=side, margin_pixels=margin)
    try:
        tiles = lattice(made, (y, x))
    except FewcastError:
        return
    count = painted(tiles, made, (y, x))
    assert count.max() == 1
    count[200:-200, 200:-200] = 0
    assert not count.any(), "a footprint leaves the domain"
    held = painted(tiles[tiles.split == "test"], made, (y, x), grow=buffer)
    rest = painted(tiles[tiles.split != "test"], made, (y, x))
    assert not (held * rest).any(), "the buffer is not kept"


def test_the_goes_irma_lattice_is_the_protocols() -> None:
    tiles = lattice(config(tile_pixels=64), (220, 360))
    assert len(tiles) == 15
    assert set(tiles[tiles.split == "test"][["row", "col"]].itertuples(index=False, name=None)) == {
        (0, 0), (1, 2), (2, 4),
    }  # fmt: skip
    assert (tiles.split == "validation").sum() == 3


@pytest.mark.parametrize(("margin", "buffer", "overlap"), [(0, 0, 0.0), (3, 0, 0.5), (2, 4, 0.75)])
def test_training_positions_touch_no_held_out_pixel(margin: int, buffer: int, overlap: float) -> None:
    shape = (101, 122)
    made = config(buffer, tile_pixels=16, margin_pixels=margin, overlap=overlap)
    tiles = lattice(made, shape)
    held = painted(tiles[tiles.split != "train"], made, shape, grow=buffer)[200:-200, 200:-200] > 0
    clear = clear_positions(tiles, made, shape)
    for y, x in np.ndindex(shape):
        top, left, bottom, right = y - margin, x - margin, y + 16 + margin, x + 16 + margin
        inside = top >= 0 and left >= 0 and bottom <= shape[0] and right <= shape[1]
        assert clear[y, x] == (inside and not held[top:bottom, left:right].any()), (y, x)
    training = tiles[tiles.split == "train"]
    assert all(clear[y, x] for y, x in training[["y0", "x0"]].to_numpy())
    assert not tiles.duplicated(["y0", "x0"]).any()
    if overlap:
        assert len(training) > 2 * len(lattice(made.model_copy(update={"overlap": 0.0}), shape))
    place = training.iloc[3]
    found = nearby(clear, place.y0, place.x0, 7)
    assert {tuple(p) for p in found} == {
        (y, x) for y, x in np.argwhere(clear) if abs(y - place.y0) <= 7 and abs(x - place.x0) <= 7
    }


def test_a_tile_that_does_not_fit_is_explained() -> None:
    with pytest.raises(FewcastError, match=r"72 pixels.*found frames of 70x200.*lower episodes\.tile_pixels"):
        lattice(config(tile_pixels=64, margin_pixels=4), (70, 200))
    with pytest.raises(FewcastError, match=r"no validation tile: found 1x2 tiles"):
        lattice(config(tile_pixels=64), (70, 150))
