"""The folder of the forecasts: what is put there, and what is cleared away."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from core.forecast_folder import Folder

START = np.datetime64("2024-06-03T12:00", "s")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "forecasts"))


def dataset(value: float = 1.0) -> xr.Dataset:
    return xr.Dataset({"mean": (("y", "x"), np.full((3, 4), value, np.float32))})


def test_another_run_that_is_quicker_gives_way_and_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, rename, quicker = folder.place(START), os.rename, [1]

    def one_moment_later(source: Path, target: Path) -> None:
        if Path(target) == place and quicker:
            quicker.pop()
            shutil.copytree(source, place)
        rename(source, target)

    monkeypatch.setattr(os, "rename", one_moment_later)
    folder.write(dataset(2.0), place)
    with xr.open_zarr(place, consolidated=False) as stored:
        assert np.unique(stored["mean"]) == 2.0
    assert [path.name for path in folder.path.iterdir()] == [place.name]
