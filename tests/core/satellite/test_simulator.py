"""The simulator against our own reader, its own truth, and what it promises about time and place."""

import numpy as np
import pytest
import xarray as xr

from core.config import IngestConfig
from core.satellite import bands, simulator, source
from core.satellite.truth import SIDE, Truth

NOON = np.datetime64("2024-03-01T04:00", "s")


def config(root, **changes):
    base = {
        "source": str(root),
        "channels": ["ir105"],
        "times": {"start": "2024-03-01T03:50", "end": "2024-03-01T04:20"},
        "origin": "2024-01-01T00:00",
        "cadence_minutes": 10,
        "simulator": {"enabled": True, "seed": 3, "pixels": 64},
    }
    return IngestConfig.model_validate(base | changes)


def test_every_band_reads_back_as_the_truth_to_half_a_count(tmp_path):
    settings = config(tmp_path, channels=list(bands.BANDS))
    written = simulator.simulate(settings)
    assert len(written) == 3 * len(bands.BANDS)
    granules = source.list_granules(settings)
    sky = Truth(3, 64).at(NOON)
    for granule in granules[len(bands.BANDS) : 2 * len(bands.BANDS)]:
        assert granule.time == NOON
        band = bands.BANDS[granule.channel]
        grid = source.archive_grid([granule], settings.model_copy(update={"channels": [granule.channel]}))
        frame = source.read_frame(granule, settings, grid)
        assert frame.values.shape == (64 * band.finer, 64 * band.finer)
        counts = bands.to_counts(band, bands.observe(band, sky, bands.noise_of(3, granule.channel, NOON)))
        # One count more or less, by the reader's own calibration, brackets what was observed.
        expected = bands.observe(band, sky, bands.noise_of(3, granule.channel, NOON))
        step = np.abs(simulator_step(band, counts))
        error = np.abs(frame.values[:: band.finer, :: band.finer] - expected)
        assert np.all(error <= 0.51 * step + 1e-3), granule.channel


def simulator_step(band, counts):
    """How far one count moves the calibrated value: a finite difference of the textbook formula."""

    def value(dn):
        radiance = band.gain * dn.astype(float) + band.offset
        if not band.infrared:
            return 100 * radiance * band.albedo
        nu = 1e4 / band.wavelength
        return 1.438777 * nu / np.log1p(1.191043e-5 * nu**3 / radiance)

    return value(counts + np.uint16(1)) - value(counts - np.uint16(1))


def test_a_granule_depends_on_its_seed_and_time_alone(tmp_path):
    wide, narrow, other = tmp_path / "wide", tmp_path / "narrow", tmp_path / "other"
    simulator.simulate(config(wide))
    simulator.simulate(config(narrow, times={"start": NOON.item(), "end": "2024-03-01T04:01"}))
    simulator.simulate(config(other, simulator={"seed": 4, "pixels": 64}))
    name = simulator.key("ir105", NOON)
    assert (wide / name).read_bytes() == (narrow / name).read_bytes()
    assert (wide / name).read_bytes() != (other / name).read_bytes()


def test_what_is_there_is_not_written_again(tmp_path):
    written = simulator.simulate(config(tmp_path))
    lost = tmp_path / written[1]
    content = lost.read_bytes()
    lost.unlink()
    assert simulator.simulate(config(tmp_path)) == [written[1]]
    assert lost.read_bytes() == content
    assert not list(tmp_path.rglob("*.part"))


def test_slots_follow_the_archives_phase(tmp_path):
    settings = config(tmp_path, origin="2024-03-01T00:15", cadence_minutes=30)
    assert [str(t) for t in simulator.slot_times(settings)] == ["2024-03-01T04:15:00"]


def test_finer_bands_nest_in_the_coarse_grid(tmp_path):
    settings = config(
        tmp_path, channels=["ir105", "vi004", "vi006"], times={"start": NOON.item(), "end": "2024-03-01T04:01"}
    )
    simulator.simulate(settings)
    ir, vi4, vi6 = (
        source.archive_grid([g], settings.model_copy(update={"channels": [g.channel]}))
        for g in source.list_granules(settings)
    )
    for fine, finer in ((vi4, 2), (vi6, 4)):
        assert np.allclose(fine.x.reshape(-1, finer).mean(1), ir.x, atol=0.01)
        assert np.allclose(fine.y.reshape(-1, finer).mean(1), ir.y, atol=0.01)


def test_visible_is_dark_at_night_and_never_all_zero():
    truth = Truth(0, 64)
    night = truth.at(np.datetime64("2024-03-01T15:00", "s"))
    counts = bands.to_counts(bands.BANDS["vi006"], bands.observe(bands.BANDS["vi006"], night, np.random.default_rng(0)))
    assert counts.min() > 0
    bright = bands.observe(bands.BANDS["vi006"], truth.at(NOON), np.random.default_rng(0))
    assert bright.max() > 30


def test_the_sky_moves_without_jumps_and_does_not_repeat():
    truth = Truth(1)
    a, b, c = (truth.at(NOON + np.timedelta64(s, "s")).high for s in (0, 60, 86_400))
    assert np.abs(a - b).max() < 0.1
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999
    assert abs(np.corrcoef(a.ravel(), c.ravel())[0, 1]) < 0.5
    assert a.shape == (SIDE, SIDE)
    assert 0 <= a.min() <= a.max() < 1


def test_a_small_sky_is_the_corner_of_the_large_one():
    small, large = Truth(1, 40).at(NOON), Truth(1, 80).at(NOON)
    assert np.allclose(small.low, large.low[:40, :40], atol=1e-6)


def test_a_netcdf_library_reads_a_granule(tmp_path):
    simulator.simulate(config(tmp_path))
    opened = xr.open_dataset(tmp_path / simulator.key("ir105", NOON), mask_and_scale=False)
    assert opened.image_pixel_values.dims == ("dim_image_y", "dim_image_x")
    assert opened.image_pixel_values.dtype == np.uint16
    assert opened.attrs["DN_to_Radiance_Gain"] < 0
    assert opened.image_pixel_values.attrs["number_of_valid_bits_per_pixel"] == 13


@pytest.mark.parametrize("layer", [0, 1])
def test_clouds_of_a_lone_cell_swell_and_fade(layer):
    """One cell, followed by brute force along its arc: the field is where the laws say, and gone after its life."""
    truth = Truth(2)
    hour = 200_000
    cells = truth.births(layer, hour)
    one = type(cells)(*(values[:1] for values in cells))
    empty = type(cells)(*(values[:0] for values in cells))
    truth.births = lambda _, h: one if h == hour else empty
    x, y, heading = one.x[0], one.y[0], one.heading[0]
    steps = 4000
    age = 0.37 * one.lifetime[0]
    for _ in range(steps):
        heading += one.turning[0] * age / steps / 2
        x += one.speed[0] * age / steps * np.cos(heading)
        y -= one.speed[0] * age / steps * np.sin(heading)
        heading += one.turning[0] * age / steps / 2
    depth = truth.optical_depth(layer, one.born[0] + age)
    truth.axis = np.array([x, x + 3.0, y])
    there = truth.optical_depth(layer, one.born[0] + age)
    share = 0.37 ** one.skew[0]
    pulse = 1 + 0.6 * np.sin(2 * np.pi * age / one.period[0] + one.beat[0])
    assert there[2, 0] == pytest.approx(one.depth[0] * np.sin(np.pi * share) ** 2 * pulse, rel=1e-3)
    assert depth.shape == (SIDE, SIDE)
    assert truth.optical_depth(layer, one.born[0] + 1.001 * one.lifetime[0]).max() == 0


def test_a_full_disk_is_mirrored_sky_on_the_earth_and_nothing_in_space(tmp_path):
    """An area across the limb and one around the subsatellite point, through the reader."""
    times = {"start": str(NOON), "end": "2024-03-01T04:01"}
    whole = config(tmp_path, sector="fd", times=times)
    (name,) = simulator.simulate(whole)
    assert name == "AMI/L1B/FD/202403/01/04/gk2a_ami_le1b_ir105_fd020ge_202403010400.nc"
    settings = whole.model_copy(update={"area": "120,-4,132,6", "whole_megabytes": 1})
    (granule,) = source.list_granules(settings)
    grid = source.archive_grid([granule], settings)
    frame = source.read_frame(granule, settings, grid)
    assert np.isfinite(frame.values).all()
    band = bands.BANDS["ir105"]
    seen = bands.observe(band, Truth(3).at(NOON), bands.noise_of(3, "ir105", NOON))
    row, column = round(2749.5 - grid.y[0] / grid.spacing[0]), round(2749.5 + grid.x[0] / grid.spacing[1])
    rows, columns = (mirrored(first + np.arange(n)) for first, n in zip((row, column), grid.shape, strict=True))
    assert np.abs(frame.values - seen[np.ix_(rows, columns)]).max() < 0.1
    assert not simulator._on_disk()[0].any()
    assert simulator._on_disk()[2750].sum() == pytest.approx(2 * 5425 / 2.004, abs=12)  # the limb at 8.7 degrees


def mirrored(index):
    """Index into a sky of SIDE pixels that is reflected at its edges."""
    folded = index % (2 * SIDE)
    return np.where(folded < SIDE, folded, 2 * SIDE - 1 - folded)


@pytest.mark.parametrize("layer", [0, 1])
def test_clouds_go_another_way_in_another_region_and_another_season(layer):
    """Mean headings of the cells born in each region: they differ between regions, and in each with the season."""
    sky, regions = Truth(3), 5

    def headings(day: int) -> np.ndarray:
        born = [sky.births(layer, 24 * (366 * 24 + day) + hour) for hour in range(72)]
        x, y, heading = (np.concatenate([getattr(cells, name) for cells in born]) for name in ("x", "y", "heading"))
        inside = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        region = (y // (SIDE / regions) * regions + x // (SIDE / regions)).astype(int)
        return np.array([np.mean(np.exp(1j * heading[inside & (region == n)])) for n in range(regions**2)])

    spring, autumn = headings(91), headings(274)
    assert np.angle(spring / spring[0]).std() > 0.5
    veered = np.angle(spring / autumn)
    assert np.abs(veered - np.median(veered)).max() < 0.2
    assert 0.7 < np.median(veered) < 1.1
