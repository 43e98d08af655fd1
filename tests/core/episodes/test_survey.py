"""The one pass over the archive against numpy on plain xarray values."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from core.archive import Archive
from core.episodes import survey as module
from core.episodes.frames import Frames
from core.episodes.survey import _motion, survey


@pytest.mark.parametrize("budget", [1, 200_000, 10**9])
def test_statistics_are_numpys_however_the_slots_are_cut(archive: Archive, budget: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "BYTES_PER_TASK", budget)
    tiles = pd.DataFrame({"y0": [0, 5, 40], "x0": [0, 31, 67]})
    slots = np.array([s for s in range(60) if s not in (20, 21, 40)])
    found = survey(Frames.open(archive.url, ["vis", "ir"]), slots, tiles, 16, 2)
    with xr.open_zarr(archive.url) as opened:
        part = opened.isel(time=slice(60))
        raw = np.stack([part["reflectance"][:, 0].values, part["brightness_temperature"][:, 0].values], 1).astype(float)
    for p, (y0, x0) in enumerate(tiles.to_numpy()):
        tile = raw[slots, :, y0 : y0 + 16, x0 : x0 + 16]
        assert np.array_equal(found.count[:, p], np.isfinite(tile).sum((2, 3)))
        np.testing.assert_allclose(found.total[:, p], np.nansum(tile, (2, 3)), rtol=1e-6)
        np.testing.assert_allclose(found.squares[:, p], np.nansum(tile**2, (2, 3)), rtol=1e-6)
        np.testing.assert_allclose(found.coverage[:, p], np.isfinite(tile).mean((2, 3)).min(1))
        cloud = (tile[:, 0] > 35).sum((1, 2)) / np.isfinite(tile[:, 0]).sum((1, 2))
        np.testing.assert_allclose(found.cloud[:, p], cloud, atol=0.005)
        for i, slot in enumerate(slots):
            if slot - 2 not in slots:
                assert np.isnan(found.change[i, p])
                continue
            gap = np.abs(tile[i, 0] - raw[slot - 2, 0, y0 : y0 + 16, x0 : x0 + 16])
            np.testing.assert_allclose(found.change[i, p], np.nanmean(gap), rtol=1e-5)
    assert len({d for d in found.digest}) == len(slots)


@pytest.mark.parametrize(("dy", "dx"), [(0.0, 0.7), (-0.4, 0.3), (1.2, -0.5)])
def test_motion_is_the_shift_of_a_smooth_field(dy: float, dx: float) -> None:
    y, x = np.meshgrid(np.arange(48.0), np.arange(40.0), indexing="ij")

    def field(v: float, u: float) -> np.ndarray:
        return np.sin((x - u) / 6) * np.cos((y - v) / 8) + 0.5 * np.sin((x - u + 2 * (y - v)) / 11)

    after = field(dy, dx)
    after[10:14, 20:30] = np.nan
    assert _motion(field(0, 0)[None], after[None])[0] == pytest.approx(np.hypot(dy, dx), rel=0.05)
    assert np.isnan(_motion(np.ones((1, 9, 9)), np.ones((1, 9, 9))))
