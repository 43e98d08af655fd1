"""What is asked of a source, and how often."""

import numpy as np
import pytest

from core.config import IngestConfig
from core.ingest.listing import Listing
from core.ingest.plan import days
from core.satellite import source
from tests.core.satellite import makers

TIMES = [f"2017-09-0{day}T{hour}:15:00" for day in (4, 5, 6) for hour in ("00", "23")]
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
