"""What is asked of a source, and how often."""

import tracemalloc

import numpy as np
import pytest
import xarray as xr

from core.config import IngestConfig
from core.ingest.listing import Listing
from core.ingest.plan import days
from core.satellite import cf_zarr, source
from core.satellite.granule import Granule
from tests.core.satellite import makers

TIMES = [f"2017-09-0{day}T{hour}:15:00" for day in (4, 5, 6) for hour in ("00", "23")]
PART = Granule("s3://bucket/part.nc", "infrared", np.datetime64("2016-01-01T03:15", "s"), 1)
FLAT, DAILY, MONTHLY = "ir_%Y%m%dT%H%M.nc", "%Y%m%d/ir_%Y%m%dT%H%M.nc", "%Y%m/ir_%Y%m%dT%H%M.nc"


def hourly(root, pattern, start, end) -> IngestConfig:
    return IngestConfig.model_validate(
        {"system": "cf", "source": str(root), "pattern": pattern, "channels": ["infrared"], "sector": "",
         "times": {"start": f"{start}T00:00", "end": f"{end}T00:00"}, "origin": f"{start}T00:15", "cadence_minutes": 60}
    )  # fmt: skip


@pytest.mark.parametrize(("pattern", "asked"), [(FLAT, 1), (DAILY, 3), (MONTHLY, 1)])
def test_a_source_is_listed_once_where_its_folders_do_not_tell_the_days(tmp_path, monkeypatch, pattern, asked):
    for time in TIMES:
        path = tmp_path / np.datetime64(time, "s").item().strftime(pattern)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(makers.cf(np.ones((4, 4), np.uint8), time))
    config = hourly(tmp_path, pattern, "2017-09-04", "2017-09-07")
    spans, calls = [], source.list_granules
    monkeypatch.setattr(source, "list_granules", lambda *given: spans.append(given[1]) or calls(*given))
    listing = Listing(config, config.times)
    assert spans == []
    found = [[str(granule.time) for granule in listing(day)] for day in days(config.times)]
    assert found == [TIMES[:2], TIMES[2:4], TIMES[4:]]
    assert len(spans) == asked


def test_each_folder_of_several_months_is_listed_once(tmp_path, monkeypatch):
    config = hourly(tmp_path, MONTHLY, "2017-08-01", "2017-11-01")
    listed = []
    monkeypatch.setattr(source, "_listing", lambda files, root, folder, config: listed.append(folder) or {})
    listing = Listing(config, config.times)
    order = list(days(config.times))
    order[30], order[31] = order[31], order[30]  # two threads ask
    for day in order:
        assert listing(day) == []
    assert listed == ["201708/", "201709/", "201710/"]


def test_what_is_kept_of_a_flat_folder_is_a_fraction_of_its_granules(tmp_path, monkeypatch):
    config = hourly(tmp_path, FLAT, "2016-01-01", "2017-01-01")
    start, hour = np.datetime64("2016-01-01T00:15", "s"), np.timedelta64(1, "h")

    def granules(*_):
        return [
            Granule(
                f"s3://bucket/frames/\udcff{i:05d}.nc", "infrared", start + i * hour, i, f"{i:032x}", (PART,) * (i == 3)
            )
            for i in range(366 * 24)
        ]

    monkeypatch.setattr(source, "list_granules", granules)
    tracemalloc.start()
    whole = granules()
    objects = tracemalloc.get_traced_memory()[0]
    listing = Listing(config, config.times)
    listing(next(days(config.times)))
    kept = tracemalloc.get_traced_memory()[0] - objects
    tracemalloc.stop()
    assert [granule for day in days(config.times) for granule in listing(day)] == whole
    assert kept < 0.35 * objects


def test_a_store_is_listed_by_months_and_makes_no_granule_of_another(tmp_path, monkeypatch):
    config = hourly(tmp_path / "frames.zarr", "", "2017-08-01", "2017-11-01")
    times = np.arange("2017-06-01T00:15", "2017-12-01T00:15", 60, "datetime64[m]")
    axis = xr.Variable("x", np.arange(4.0))
    xr.Dataset({"infrared": ("time", np.zeros(len(times), "u1"))}, {"time": times, "x": axis, "y": axis}).to_zarr(
        tmp_path / "frames.zarr"
    )
    made, spans, calls = [], [], source.list_granules
    monkeypatch.setattr(cf_zarr, "Granule", lambda *given: made.append(given) or Granule(*given))
    monkeypatch.setattr(source, "list_granules", lambda *given: spans.append(given[1]) or calls(*given))
    listing = Listing(config, config.times)
    day = listing(next(days(config.times)))
    assert [str(granule.time) for granule in day] == [f"2017-08-01T{hour:02d}:15:00" for hour in range(24)]
    assert len(made) == 31 * 24
    assert sum(len(listing(day)) for day in days(config.times)) == 92 * 24
    assert len(spans) == 3
