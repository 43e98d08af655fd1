"""What is recorded of a slot beside its frames: when they were observed."""

from dataclasses import replace

import numpy as np
import xarray as xr

from core.archive import Status, Stored
from core.satellite.sun import sun_frame
from tests.core.test_archive import CHANNELS, GRID, TIME, frame, make

WITH_SUN = CHANNELS | {"solar_elevation": "solar_elevation"}


def test_the_sun_is_computed_and_no_observation(tmp_path):
    archive = make(tmp_path / "a.zarr", channels=WITH_SUN)
    archive.record(archive.write_frame(archive.slot(TIME), [frame(), sun_frame(TIME, GRID)]))
    assert xr.open_zarr(archive.url).sel(time=TIME).observation_time.values == frame().observation_time


def test_the_observation_time_is_that_of_the_frames_that_are_served(tmp_path):
    archive = make(tmp_path / "a.zarr", channels=WITH_SUN)
    slot = archive.slot(TIME)

    def seconds(*stored):
        archive.record(stored)
        moment = xr.open_zarr(archive.url).sel(time=TIME).observation_time.values
        return None if np.isnat(moment) else int((moment - TIME) / np.timedelta64(1, "s"))

    def write(**after):
        made = [replace(frame(name), observation_time=TIME + np.timedelta64(late, "s")) for name, late in after.items()]
        return seconds(*archive.write_frame(slot, [*made, sun_frame(TIME, GRID)]))

    def withdraw(*names):
        return seconds(*(Stored(slot, name, Status.CORRUPT) for name in names))

    assert write(ir105=20) == 20
    assert write(ir105=80) == 80, "its only observation was replaced"
    assert write(vi006=50) == 50
    assert write(ir105=90) == 50, "that of vi006"
    assert write(ir105=70, vi006=60) == 60
    assert withdraw("ir105") == 60
    assert withdraw("vi006") is None, "the sun alone is served"
    assert write(wv063=40) == 40
    assert seconds(Stored(slot, "ir105", Status.CORRUPT, observation_time=TIME)) == 40, "it is not served"
