"""What a forecast says of itself, where its channels are of one kind and where they are not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from core.config import ForecastConfig
from core.forecast.dataset import forecast_dataset, write_store
from core.forecast.newest import Newest
from core.model import DataSpec
from core.satellite.granule import Grid
from core.verify.mixture import Mixture

TEMPERATURE = "toa_brightness_temperature"


@pytest.mark.parametrize(
    ("second", "units", "name"), [("reflectance", None, None), ("brightness_temperature", "K", TEMPERATURE)]
)
def test_a_field_has_units_where_all_channels_share_them_and_each_channel_has_its_own(tmp_path, second, units, name):
    spec = DataSpec(("ir", "other"), 2, 2, (10, 20), 4, 0, mean=(260.0, 30.0), std=(20.0, 15.0))
    grid = Grid(np.arange(5) * 2000.0, -np.arange(4) * 2000.0, {"grid_mapping_name": "mercator"})
    archive = SimpleNamespace(grid=grid, kind_of={"other": second, "ir": "brightness_temperature"})
    area = slice(0, 4), slice(0, 5)
    view = Newest(SimpleNamespace(archive=archive), SimpleNamespace(spec=spec), area, 1, ForecastConfig())
    mixture = Mixture(torch.randn(3, 4, 4, 5, generator=torch.Generator().manual_seed(0)), torch.ones(4, 1, 1))
    made = forecast_dataset(
        ForecastConfig(), spec, view, mixture, np.datetime64("2024-06-01T00:00"), np.ones((4, 5), bool)
    )
    place = tmp_path / "forecast_20240601T0000Z.zarr"
    write_store(made, place)
    made.to_netcdf(place.with_suffix(".nc"), engine="h5netcdf")
    for stored in (xr.open_zarr(place, consolidated=False), xr.open_dataset(place.with_suffix(".nc"))):
        with stored:
            assert [*stored["channel_units"].values] == ["K", "percent" if second == "reflectance" else "K"]
            for field in ("members", "mean", "spread"):
                assert stored[field].attrs.get("units") == units
                assert stored[field].attrs.get("standard_name") == (None if field == "spread" else name)
