"""A segment whose first attempt fails is tried again by Prefect, from the last good checkpoint, to the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.meta import checkpoint
from tasks.tracking import read_delivered
from tasks.tracking.server import open_client
from tests.core.training.runs import bits, configured

RUN = """
import json, sys, time
from flows import embedded
embedded.prepare()
from tasks import policies
policies.SEGMENT["retry_delay_seconds"] = 0
from prefect.client.orchestration import get_client
from core.config import TrackingConfig, TrainConfig
from core.training import train as training
from flows.train import train

config = TrainConfig.model_validate_json(sys.argv[1])
training.train(config.model_copy(update={"run": config.run + "-unbroken"}))
step, taken = training._Loop._step, []

def fail_once(self, *arguments):
    taken.append(self.run.progress.step)
    if taken.count(8) == 1 and taken[-1] == 8:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return step(self, *arguments)

training._Loop._step = fail_once
with embedded.in_process():
    summary = train(config, TrackingConfig(uri="sqlite:///mlflow.db", experiment="retried"), 6)
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 120
        while True:  # records come in a little later
            runs = sorted(client.read_task_runs(), key=lambda run: run.start_time)
            if len(runs) == 2 and all(run.state.is_final() for run in runs) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
    records = [(run.state.type.value, run.run_count) for run in runs]
print(json.dumps({"taken": taken, "records": records, "ended": [summary.step, summary.finished]}))
"""


@pytest.mark.timeout(900)
def test_a_failed_segment_goes_on_from_its_checkpoint_and_the_run_has_the_bits_of_an_unbroken_one(
    tiny_store: str, tmp_path: Path
) -> None:
    config = configured(tiny_store, tmp_path).model_copy(update={"threads": 1})
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    done = subprocess.run([sys.executable, "-c", RUN, config.model_dump_json()], cwd=tmp_path, env=kept,
                          capture_output=True, text=True, timeout=800)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["taken"] == [*range(6), 6, 7, 8, *range(6, 12)], "the second segment twice, from its first step on"
    assert found["records"] == [["COMPLETED", 1], ["COMPLETED", 2]]
    assert found["ended"] == [12, True]
    assert bits(config.run) == bits(f"{config.run}-unbroken")
    ours, theirs = (checkpoint.steps(Path(run)) for run in (config.run, f"{config.run}-unbroken"))
    assert ours == theirs
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = open_client(uri)
    run = client.get_run(read_delivered(Path(config.run) / "tracking").run_id)
    assert run.info.status == "FINISHED"
    assert len(client.search_runs([run.info.experiment_id])) == 1
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "validation/crps")] == [4, 5, 10, 12]
