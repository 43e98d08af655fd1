"""The folder of the forecasts: what is put there, and what is cleared away."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from core.forecast.dataset import IDENTITY, write_store
from core.forecast.folder import Folder

START = np.datetime64("2024-06-03T12:00", "s")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "forecasts"))


def dataset(value: float = 1.0) -> xr.Dataset:
    fields = {"mean": (("y", "x"), np.full((3, 4), value, np.float32))}
    return xr.Dataset(fields, attrs=dict.fromkeys(IDENTITY, "this one"))


def publish(folder: Folder, place: Path, data: xr.Dataset, *beside: str) -> None:
    with folder.publishing(place, beside) as hidden:
        write_store(data, hidden / place.name)
        for suffix in beside:
            (hidden / place.with_suffix(suffix).name).write_text(suffix)


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
    publish(folder, place, dataset(2.0))
    with xr.open_zarr(place, consolidated=False) as stored:
        assert np.unique(stored["mean"]) == 2.0
    assert [path.name for path in folder.path.iterdir()] == [place.name]


def test_what_another_forecast_left_beside_is_not_taken_for_this_ones(folder: Folder) -> None:
    place = folder.place(START)
    publish(folder, place, dataset(), ".nc", ".gif")
    folder.point_to_latest()
    own = dict.fromkeys(IDENTITY, "this one")
    assert folder.holds(place, own, [".nc", ".gif"])
    assert not folder.holds(place, own, [".nc", ".png"]), "a picture is yet to be made"
    place.with_suffix(".gif").write_text("")
    assert not folder.holds(place, own, [".nc", ".gif"]), "an empty file is none"
    publish(folder, place, dataset(), ".gif")
    folder.point_to_latest()
    assert not folder.holds(place, own, [".nc"])
    assert {path.name for path in folder.path.iterdir()} == {
        place.name, place.with_suffix(".gif").name, "latest.zarr", "latest.gif",
    }  # fmt: skip


def test_a_kill_while_an_old_forecast_goes_leaves_nothing_that_is_listed(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = folder.place(START), folder.place(START + np.timedelta64(30, "D"))
    for place in (old, new):
        publish(folder, place, dataset())

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            (Path(path) / "zarr.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            list(folder.retire(14, new))
    assert [place for _, place in folder.forecasts()] == [new]
    [left] = (path for path in folder.path.iterdir() if path != new)
    os.utime(left, (0, 0))
    list(folder.retire(14, new))
    assert [*folder.path.iterdir()] == [new]


def test_whatever_a_killed_run_left_goes_in_time(folder: Folder) -> None:
    place = folder.place(START)
    publish(folder, place, dataset())
    lost = folder.path / ".forecast_20240603T1200Z.zarr.1.partial"
    lost.mkdir()
    (folder.path / ".superseded.json.1.partial").touch()
    (folder.path / ".latest.png.1.partial").symlink_to("nowhere")
    (folder.path / "forecast_20240603T1100Z.png").touch()
    list(folder.retire(14, place))
    assert len(list(folder.path.iterdir())) == 5, "they may be another run's, at work"
    for path in folder.path.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    list(folder.retire(14, place))
    assert [path.name for path in folder.path.iterdir()] == [place.name]
