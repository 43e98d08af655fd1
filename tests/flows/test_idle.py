"""A run that finds nothing new, as most runs of a live satellite do, does not load what it has no use for."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.config import load
from core.ingest import ingest
from core.satellite.simulator import simulate

TINY = Path(__file__).with_name("tiny.toml")
HEAVY = ("torch", "distributed", "dask", "xarray", "pandas", "matplotlib", "mlflow", "scipy",
         "zarr", "zarrs", "pyproj", "PIL")  # seconds, together  # fmt: skip
RUN = f"""
import json, sys
from flows import embedded
embedded.prepare()
from core.config import IngestConfig
from flows.ingest import ingest
with embedded.in_process():
    summary = ingest(IngestConfig.model_validate_json(sys.argv[1]))
heavy = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps([summary.written, summary.skipped, heavy]))
"""


@pytest.mark.timeout(600)
def test_an_idle_ingest_imports_nothing_heavy(tmp_path: Path) -> None:
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    config = load(TINY, [
        f"ingest.source={tmp_path / 'granules'}", f"ingest.archive={tmp_path / 'archive.zarr'}",
        f"ingest.origin={start:%FT%TZ}", f"ingest.times.start={start:%FT%TZ}",
        f"ingest.times.end={start + timedelta(hours=1.5):%FT%TZ}", "ingest.mode=latest",
    ]).ingest  # fmt: skip
    simulate(config)
    own = {"simulator": config.simulator.model_copy(update={"enabled": False})}
    live = config.model_copy(update=own)
    assert ingest(live).written == 2
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    cluster = {"DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:9"}  # named, and away: it is not asked
    done = subprocess.run([sys.executable, "-c", RUN, live.model_dump_json()], cwd=tmp_path, env=kept | cluster,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 2, []]
