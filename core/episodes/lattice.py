"""Where region tiles lie, which split each belongs to, and where training tiles may be cut."""

import numpy as np
import pandas as pd

from core.config import EpisodesConfig
from core.errors import FewcastError

SPLITS = ("train", "validation", "test")


def lattice(config: EpisodesConfig, shape: tuple[int, int]) -> pd.DataFrame:
    """The tiles of a domain of `shape` (Y, X): one row a tile, with row, col, y0, x0 (first pixel) and split.

    Tiles of the plain lattice are spread evenly, so that their footprints (tile plus margin) never touch and lie at
    least the buffer apart. Overlapping tiles are added for training alone, where they touch no held-out footprint;
    they bear the row and column of the nearest tile of the lattice. Raises `FewcastError` where tiles do not fit.
    """
    y = _places(shape[0], config)
    x = _places(shape[1], config)
    if not len(y) or not len(x):
        side = config.tile_pixels + 2 * config.margin_pixels
        raise FewcastError(
            f"a tile with its margin ({side} pixels) does not fit into the archive",
            found=f"frames of {shape[0]}x{shape[1]}",
            mend="lower episodes.tile_pixels or episodes.margin_pixels, or ingest with a smaller block",
        )
    row, col = (grid.ravel() for grid in np.meshgrid(np.arange(len(y)), np.arange(len(x)), indexing="ij"))
    rank = (row + 2 * col) % config.split.modulus
    split = np.select([rank == 0, rank == 1], ["test", "validation"], "train")
    tiles = pd.DataFrame({"row": row, "col": col, "y0": y[row], "x0": x[col], "split": split})
    missing = [name for name in SPLITS if name not in set(split)]
    if missing:
        raise FewcastError(
            f"the lattice has no {' and no '.join(missing)} tile",
            found=f"{len(y)}x{len(x)} tiles of {config.tile_pixels} pixels",
            mend="lower episodes.tile_pixels so that more tiles fit, or lower episodes.split.modulus",
        )
    if config.overlap > 0:
        tiles = pd.concat([tiles, _overlapping(tiles, config, shape)], ignore_index=True)
    return tiles


def _places(extent: int, config: EpisodesConfig) -> np.ndarray:
    """First pixels of the tiles along one axis: as many as fit, spread from edge to edge."""
    side = config.tile_pixels + 2 * config.margin_pixels
    count = (extent + config.split.buffer_pixels) // (side + config.split.buffer_pixels)
    slack = extent - side
    if count <= 1:
        return np.full(max(count, 0), slack // 2 + config.margin_pixels, np.int64)
    return np.arange(count) * slack // (count - 1) + config.margin_pixels


def clear_positions(tiles: pd.DataFrame, config: EpisodesConfig, shape: tuple[int, int]) -> np.ndarray:
    """Where a training tile may begin: bool (Y, X), True if its footprint keeps the buffer from every held-out one."""
    tile, margin, reach = config.tile_pixels, config.margin_pixels, config.split.buffer_pixels
    clear = np.zeros(shape, bool)
    clear[margin : shape[0] - tile - margin + 1, margin : shape[1] - tile - margin + 1] = True
    distance = tile + 2 * margin + reach
    for y0, x0 in tiles.loc[tiles["split"] != "train", ["y0", "x0"]].to_numpy():
        clear[max(y0 - distance + 1, 0) : y0 + distance, max(x0 - distance + 1, 0) : x0 + distance] = False
    return clear


def nearby(clear: np.ndarray, y0: int, x0: int, reach: int) -> np.ndarray:
    """The allowed first pixels (n, 2) within `reach` of a tile's place in both directions."""
    top, left = max(y0 - reach, 0), max(x0 - reach, 0)
    found = np.argwhere(clear[top : y0 + reach + 1, left : x0 + reach + 1])
    return found + np.array([top, left])


def _overlapping(tiles: pd.DataFrame, config: EpisodesConfig, shape: tuple[int, int]) -> pd.DataFrame:
    clear = clear_positions(tiles, config, shape)
    step = max(1, round(config.tile_pixels * (1 - config.overlap)))
    taken = set(zip(tiles["y0"], tiles["x0"], strict=True))
    rows = []
    for y0 in range(config.margin_pixels, shape[0], step):
        for x0 in range(config.margin_pixels, shape[1], step):
            if clear[y0, x0] and (y0, x0) not in taken:
                nearest = (abs(tiles["y0"] - y0) + abs(tiles["x0"] - x0)).to_numpy().argmin()
                home = tiles.iloc[nearest]
                rows.append((home["row"], home["col"], y0, x0, "train"))
    return pd.DataFrame(rows, columns=list(tiles.columns)).astype(tiles.dtypes.to_dict())
