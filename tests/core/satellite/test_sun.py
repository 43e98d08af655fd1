import numpy as np
import pytest

from core.satellite import sun
from core.satellite.granule import Grid
from tests.core.satellite.test_grid import GEOS, lattice


def test_against_pyorbital():
    astronomy = pytest.importorskip("pyorbital.astronomy", reason="the oracle pyorbital is not installed")
    generator = np.random.default_rng(5)
    lon, lat = generator.uniform(-180, 180, 200), generator.uniform(-90, 90, 200)
    for text in ("2017-09-05T00:15", "2023-12-21T21:03", "2024-02-29T12:00", "2031-06-21T05:59:59"):
        time = np.datetime64(text, "s")
        oracle = np.arccos(np.asarray(astronomy.cos_zen(time, lon, lat)))
        ours = np.arccos(sun.cos_zenith(time, lon, lat))
        assert np.rad2deg(np.abs(ours - oracle)).max() < 0.02


@pytest.mark.parametrize(
    ("time", "lat", "elevation"),
    [("2024-06-20T20:51", 23.44, 90.0), ("2024-12-21T09:20", 66.56, 0.0), ("2024-03-20T03:06", 0.0, 90.0)],
)
def test_solstices_and_equinox(time, lat, elevation):
    """At the longitude where it is noon, the sun stands in the zenith of the tropic, on the horizon of the circle."""
    lon = np.linspace(-180, 180, 7201)
    highest = np.rad2deg(np.arcsin(sun.cos_zenith(np.datetime64(time, "s"), lon, np.full_like(lon, lat)).max()))
    assert highest == pytest.approx(elevation, abs=0.05)


def test_a_frame_has_gaps_off_the_disk_and_moves_west():
    grid = Grid(2e5 * np.arange(-30, 31), -2e5 * np.arange(-30, 31), dict(GEOS))
    frame = sun.sun_frame(np.datetime64("2023-09-05T03:27", "s"), grid)
    assert np.isnan(frame.values[0, 0])
    assert frame.values[30, 30] > 80  # noon below the satellite
    later = sun.sun_frame(np.datetime64("2023-09-05T09:27", "s"), grid)
    assert np.nanargmax(later.values[30]) < np.nanargmax(frame.values[30])
    assert abs(later.values[30, 30]) < 5
    assert sun.sun_frame(np.datetime64("2023-09-05T03:27", "s"), lattice((4, 5))).values.shape == (4, 5)
