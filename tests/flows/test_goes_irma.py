"""The goes-irma preset on three days of the real frames: their holes, their HTML page, and a scorecard."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray

FRAMES = Path("../shared/data/goes-irma/granules").resolve()
SMALL = [
    f"ingest.source={FRAMES}",
    "ingest.times.start=2017-09-05T12:00:00Z",
    "ingest.times.end=2017-09-08T00:00:00Z",
    "episodes.split.train=[{start=2017-09-05T12:00:00Z, end=2017-09-06T06:00:00Z}]",
    "episodes.split.validation=[{start=2017-09-06T06:00:00Z, end=2017-09-07T00:00:00Z}]",
    "episodes.split.test=[{start=2017-09-07T00:00:00Z, end=2017-09-08T00:00:00Z}]",
    "episodes.train_episodes=16",
    "episodes.validation_episodes=2",
    "episodes.test_episodes=2",
    "episodes.support_windows=2",
    "train.network.width=4",
    "train.network.depth=1",
    "train.pretrain_steps=4",
    "train.steps=2",
    "train.validation_episodes=2",
    "train.inner.steps_to_try=[]",
    "evaluate.members=2",
    "evaluate.bootstrap_samples=100",
]


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FRAMES.is_dir(), reason=f"the real frames are not at {os.path.relpath(FRAMES)}")
def test_three_real_days_become_an_archive_and_a_scorecard(tmp_path: Path) -> None:
    sets = [word for change in SMALL for word in ("--set", change)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "pipeline", "--preset", "goes-irma", *sets],
        cwd=tmp_path, env={**kept, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with xarray.open_zarr(str(tmp_path / "data/goes-irma/archive.zarr")) as archive:
        seen = archive[["status", "reason"]].sel(time=slice("2017-09-05T12:00", "2017-09-07T23:59")).load()
    status, times = seen["status"].values[:, 0], seen["time"].values
    published = {np.datetime64(f"{p.stem[-14:-10]}-{p.stem[-10:-8]}-{p.stem[-8:-6]}T{p.stem[-5:-3]}:{p.stem[-3:-1]}")
                 for p in FRAMES.glob("*.nc")}  # fmt: skip
    page = np.datetime64("2017-09-07T21:15")
    for time, code in zip(times, status, strict=True):
        minute = time.astype("datetime64[m]")
        assert code == (3 if minute == page else 1 if minute in published else 4), time
    meanings = seen["reason"].attrs["flag_meanings"].split()
    codes = dict(zip(np.atleast_1d(seen["reason"].attrs["flag_values"]).tolist(), meanings, strict=True))
    assert codes[int(seen["reason"].sel(time=page).values[0])] == "not_hdf5"
    table = pd.read_parquet(tmp_path / "data/goes-irma/scorecard/scorecard.parquet")
    crps = table[(table["metric"] == "crps") & (table["reference"] == "")]
    assert set(crps["lead_time"]) >= {30, 60, 90, 120}
    assert np.isfinite(crps["value"]).all()
    assert {"persistence", "dressed persistence", "abml, M = 0", "abml, M = 2"} <= set(crps["learner"])
