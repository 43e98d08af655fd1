"""Extra input planes: against pyproj, the calendar and another formula for the sun; and as the loader serves them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyproj
import pytest
import torch

from core.config import EpisodesConfig
from core.episodes import EpisodeStore, build
from core.episodes.extra import ExtraPlanes, plane_names
from core.episodes.loader import Loader, turned
from core.errors import FewcastError
from core.satellite.granule import Grid

EVERYTHING = ("time", "sun", "location")
CRS = {
    "grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [30.0, 60.0],
    "longitude_of_central_meridian": 126.0, "latitude_of_projection_origin": 38.0,
    "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563,
}  # fmt: skip
PROJ = pyproj.Proj("+proj=lcc +lat_1=30 +lat_2=60 +lat_0=38 +lon_0=126 +ellps=WGS84")
GRID = Grid(np.arange(70) * 30e3 - 900e3, 800e3 - np.arange(50) * 30e3, CRS)
TIMES = np.array(["2020-02-29T00:40", "2021-06-21T12:00", "2022-12-31T23:50", "2023-09-03T03:10"], "M8[ns]")


def places(y0: int, x0: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude by PROJ, of a window that may lie outside the grid."""
    y, x = 800e3 - 30e3 * np.arange(y0, y0 + height), 30e3 * np.arange(x0, x0 + width) - 900e3
    return PROJ(*np.meshgrid(x, y), inverse=True)


def spencer(time: datetime, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Cosine of the zenith angle by the Fourier series of Spencer (1971), good to about 0.01."""
    hour = time.hour + time.minute / 60
    g = 2 * np.pi * (time.timetuple().tm_yday - 1 + (hour - 12) / 24) / 365
    declination = (0.006918 - 0.399912 * np.cos(g) + 0.070257 * np.sin(g) - 0.006758 * np.cos(2 * g)
                   + 0.000907 * np.sin(2 * g) - 0.002697 * np.cos(3 * g) + 0.00148 * np.sin(3 * g))  # fmt: skip
    minutes = 229.18 * (0.000075 + 0.001868 * np.cos(g) - 0.032077 * np.sin(g) - 0.014615 * np.cos(2 * g)
                        - 0.040849 * np.sin(2 * g))  # fmt: skip
    angle = np.deg2rad(15 * (hour + minutes / 60 - 12) + lon)
    phi = np.deg2rad(lat)
    return np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(angle)


@pytest.mark.parametrize("window", [(0, 0, 7, 9), (11, 20, 16, 16), (-5, 60, 12, 15)])
def test_planes_are_those_of_the_place_and_the_time(window: tuple[int, int, int, int]) -> None:
    planes = ExtraPlanes(GRID, reversed(EVERYTHING)).at(TIMES, *window)
    assert planes.shape == (4, len(plane_names(EVERYTHING)), *window[2:])
    assert np.abs(planes).max() <= 1
    lon, lat = places(*window)
    to_earth = pyproj.Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    ground, above = (np.array(to_earth.transform(lon, lat, np.full(lon.shape, h))) for h in (0.0, 1000.0))
    for n, time in enumerate(TIMES):
        instant = time.astype("M8[s]").item().replace(tzinfo=UTC)
        year, after = datetime(instant.year, 1, 1, tzinfo=UTC), datetime(instant.year + 1, 1, 1, tzinfo=UTC)
        season = 2 * np.pi * ((instant - year) / (after - year))
        np.testing.assert_allclose(planes[n, 0], np.sin(season), atol=1e-6)
        np.testing.assert_allclose(planes[n, 1], np.cos(season), atol=1e-6)
        solar = (instant.hour + instant.minute / 60 + lon / 15) % 24
        np.testing.assert_allclose(planes[n, 2], np.sin(2 * np.pi * solar / 24), atol=1e-6)
        np.testing.assert_allclose(planes[n, 3], np.cos(2 * np.pi * solar / 24), atol=1e-6)
        np.testing.assert_allclose(planes[n, 4], spencer(instant, lon, lat), atol=0.01)
        np.testing.assert_allclose(planes[n, 5:], (above - ground) / 1000, atol=1e-6)


def test_what_is_off_the_disk_is_nought() -> None:
    crs = {"grid_mapping_name": "geostationary", "perspective_point_height": 35785831.0, "sweep_angle_axis": "x",
           "longitude_of_projection_origin": -75.0, "semi_major_axis": 6378137.0}  # fmt: skip
    grid = Grid(np.arange(20) * 600e3 - 5.7e6, 5.7e6 - np.arange(20) * 600e3, crs)
    planes = ExtraPlanes(grid, EVERYTHING).at(TIMES[:1], 0, 0, 20, 20)
    assert np.isfinite(planes).all()
    assert (planes[:, :, 0, 0] == 0).all()
    assert (planes[0, 5:, 10, 10] != 0).all()


def test_the_loader_computes_them_and_turns_them_with_the_frames(configure: Callable[..., EpisodesConfig]) -> None:
    config = configure(margin_pixels=2, tile_pixels=12)
    build(config)
    store = EpisodeStore.open(config.store)
    bare = Loader(store, split="train", batch_size=8, seed=1)
    plain = Loader(store, split="train", batch_size=8, seed=1, extra=("location", "time", "sun"))
    varied = Loader(store, split="train", batch_size=8, seed=1, extra=EVERYTHING, augment=True)
    a, b = plain.batch(0), varied.batch(0)
    assert a.ids == b.ids
    symmetries = set()
    expected = ExtraPlanes(store.grid, EVERYTHING)
    frames = bare.batch(0).query.x.shape[2]
    for e, episode in enumerate(a.ids):
        row = store.catalog.iloc[episode]
        for part, other in ((a.support, b.support), (a.query, b.query)):
            its = expected.at(part.init_time[e], row["y0"] - 2, row["x0"] - 2, 16, 16)
            np.testing.assert_array_equal(part.x[e, :, frames:].numpy(), its)
            same = [s for s in range(8) if np.array_equal(turned(part.x[e].numpy(), s), other.x[e].numpy())]
            assert len(same) == 1, "frames and planes are turned by one and the same symmetry"
            symmetries.add(same[0])
    assert len(symmetries) > 2
    for wanted in ((), ("sun",), ("time", "location")):
        exact = Loader(store, split="train", batch_size=8, seed=1, extra=wanted).batch(0)
        assert torch.equal(a.query.only(wanted).x, exact.query.x)
        assert a.query.only(wanted).extra == exact.query.extra
    with pytest.raises(ValueError, match="loaded without sun"):
        bare.batch(0).query.only(["sun"])


def test_a_store_that_does_not_say_where_it_lies_is_refused(configure: Callable[..., EpisodesConfig]) -> None:
    config = configure()
    build(config)
    path = Path(config.store, "zarr.json")
    root = json.loads(path.read_text())
    del root["attributes"]["fewcast_episodes"]["grid"]
    path.write_text(json.dumps(root))
    store = EpisodeStore.open(config.store)
    assert len(Loader(store, split="train"))
    with pytest.raises(FewcastError, match="does not say where its tiles lie"):
        Loader(store, split="train", extra=["sun"])
