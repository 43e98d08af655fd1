"""What is asked of a source, and how often."""

import numpy as np
import pytest

from core.config import IngestConfig
from core.ingest.listing import Listing
from core.ingest.plan import days
from core.satellite import source
from tests.core.satellite import makers

TIMES = [f"2017-09-0{day}T{hour}:15:00" for day in (4, 5, 6) for hour in ("00", "23")]


@pytest.mark.parametrize(("pattern", "asked"), [("ir_%Y%m%dT%H%M.nc", 1), ("%Y%m%d/ir_%Y%m%dT%H%M.nc", 3)])
def test_a_source_is_listed_once_where_its_folders_do_not_tell_the_days(tmp_path, monkeypatch, pattern, asked):
    for time in TIMES:
        path = tmp_path / np.datetime64(time, "s").item().strftime(pattern)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(makers.cf(np.ones((4, 4), np.uint8), time))
    config = IngestConfig.model_validate(
        {"system": "cf", "source": str(tmp_path), "pattern": pattern, "channels": ["infrared"], "sector": "",
         "times": {"start": "2017-09-04T00:00", "end": "2017-09-07T00:00"}, "origin": "2017-09-04T00:15",
         "cadence_minutes": 60}
    )  # fmt: skip
    spans, calls = [], source.list_granules
    monkeypatch.setattr(source, "list_granules", lambda *given: spans.append(given[1]) or calls(*given))
    listing = Listing(config, config.times)
    assert spans == []
    found = [[str(granule.time) for granule in listing(day)] for day in days(config.times)]
    assert found == [TIMES[:2], TIMES[2:4], TIMES[4:]]
    assert len(spans) == asked
