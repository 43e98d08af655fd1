"""Day-only sampling against the sun's elevation at every pixel."""

from collections.abc import Callable

import numpy as np

from core.archive import Archive
from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build
from core.episodes.daylight import lowest_sun
from core.episodes.lattice import lattice
from core.satellite.sun import sun_frame


def test_the_lowest_sun_of_a_tile_is_that_of_its_pixels(
    archive: Archive, configure: Callable[..., EpisodesConfig]
) -> None:
    tiles = lattice(configure(), archive.shape)
    slots = np.arange(0, 144, 7)
    found = lowest_sun(archive.grid, archive.times[slots], tiles, 16, 0)
    for i, slot in enumerate(slots):
        elevation = sun_frame(archive.times[slot], archive.grid).values
        for p, tile in enumerate(tiles.itertuples()):
            box = elevation[tile.y0 : tile.y0 + 16, tile.x0 : tile.x0 + 16]
            assert abs(found[i, p] - box.min()) < 0.05


def test_every_frame_of_an_episode_is_in_daylight(archive: Archive, configure: Callable[..., EpisodesConfig]) -> None:
    config = configure(minimum_sun_degrees=10, support_windows=2, query_windows=2, jitter_pixels=6, channels=["vis"])
    build(config)
    elevation = {slot: sun_frame(archive.times[slot], archive.grid).values for slot in range(144)}
    for row in EpisodeStore.open(config.store).catalog.itertuples():
        for start in (*row.support, *row.query):
            for slot in range(start, start + 5):
                assert elevation[slot][row.y0 : row.y0 + 16, row.x0 : row.x0 + 16].min() > 9.9
