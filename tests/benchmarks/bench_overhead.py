"""What Prefect, MLflow, pictures and checkpoints cost a training, beside the same steps without them.

    python tests/benchmarks/bench_overhead.py [--preset goes-irma --episodes URL] [--minutes 30]

A shortened training of the preset by `fewcast train`, and the same by `core.training.train`, which tells nobody. Events
come more often than in the whole run, so the second table scales each by how often it comes in a run of so many
minutes: what happens once, once; reports every ten steps; pictures and checkpoints with every validation. Steps are
slower while servers start, and after that by what the server and the deliveries take from the cores: from
the first validation on, the pooled steps of both runs are compared.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench_train import make_store

from core.config import load
from core.training.train import LOG_EVERY
from flows.cli import find_preset

REPOSITORY = Path(__file__).parents[2]
_RUN = """
import json, sys
from pathlib import Path
from core.config import load
from core.report import Silent
from core.training.train import train

class Told(Silent):
    stepping = {}
    def metrics(self, values, step):
        if "time/steps_seconds" in values:
            self.stepping[step] = values["time/steps_seconds"] + values["time/data_seconds"]

config = load(Path(sys.argv[1]), sys.argv[2:])
seconds = train(config.train, report=Told()).seconds
print(json.dumps([seconds, Told.stepping]))
"""
_FLOW = """
import json, sys
from flows import commands
from flows.cli import main

told, account = {}, commands.account
def tell(seconds):
    told.update(seconds)
    return account(seconds)

commands.account = tell
code = main(sys.argv[1:])
stepping = {}
for line in open("run/tracking/journal.jsonl"):
    record = json.loads(line)
    values = record.get("values", {})
    if "time/steps_seconds" in values:
        stepping[record["step"]] = values["time/steps_seconds"] + values["time/data_seconds"]
print(json.dumps([told, stepping]))
sys.exit(code)
"""


def measure(command: list[str], folder: Path) -> tuple[dict[str, float], dict[int, float], float, float]:
    """Seconds by what, seconds of stepping until each validation, of the whole process, and of servers' CPU."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    begun, servers = time.perf_counter(), 0.0
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err)
        while process.poll() is None:
            try:
                children = [child.cpu_times() for child in process.children(recursive=True)]
                servers = max(servers, sum(times.user + times.system for times in children))
            except psutil.Error:  # gone meanwhile
                pass
            time.sleep(0.5)
    wall = time.perf_counter() - begun
    if process.returncode:
        raise SystemExit((folder / "err").read_text())
    seconds, stepping = json.loads((folder / "out").read_text().splitlines()[-1])
    return seconds, {int(step): spent for step, spent in stepping.items()}, wall, servers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="goes-irma")
    parser.add_argument("--episodes", default="", help="its episode store; empty: random fields")
    parser.add_argument("--pooled", type=int, default=200, help="pooled steps of the shortened run")
    parser.add_argument("--steps", type=int, default=20, help="meta-steps of the shortened run")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    preset = find_preset(arguments.preset)
    whole = load(preset).train
    every = max(arguments.pooled // 4, 1)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        store = str(Path(arguments.episodes).resolve()) if arguments.episodes else make_store(folder)
        changes = [f"train.episodes={store}", f"train.pretrain_steps={arguments.pooled}",
                   f"train.steps={arguments.steps}", f"train.validate_every={every}",
                   "train.fit_budget=false", "train.budget_minutes=1000"]  # fmt: skip
        sets = [word for change in [*changes, "train.run=run"] for word in ("--set", change)]
        full = [sys.executable, "-c", _FLOW, "train", "--preset", arguments.preset, *sets]
        bare = [sys.executable, "-c", _RUN, str(preset), *changes, "train.run=bare"]
        alone, alone_stepping, alone_wall, _ = measure(bare, folder)
        told, stepping, wall, servers = measure(full, folder)
    validations = arguments.pooled // every + 1
    steps = arguments.pooled + arguments.steps
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.preset}: {arguments.pooled} pooled "
          f"steps, {arguments.steps} meta-steps, {validations} validations")  # fmt: skip
    print(f"{'seconds':20}{'core alone':>12}{'fewcast train':>15}")
    for what in ("steps", "data", "validation", "pictures", "checkpoints", "reports", "start"):
        print(f"{what:20}{alone.get(what, 0):12.2f}{told.get(what, 0):15.2f}")
    around = wall - sum(told.values())
    print(f"{'everything around':20}{alone_wall - sum(alone.values()):12.2f}{around:15.2f}")
    print(f"{'whole':20}{alone_wall:12.2f}{wall:15.2f}   and {servers:.1f} CPU seconds in Prefect's server\n")

    early, late = stepping[every] - alone_stepping[every], arguments.pooled
    steady, alone_steady = (found[late] - found[every] for found in (stepping, alone_stepping))
    seconds = 60 * arguments.minutes
    planned = whole.pretrain_steps + whole.steps
    checks = planned // whole.validate_every + 2
    rows = {
        "once: start, end, servers": told["start"] + around,
        f"{planned // LOG_EVERY} reports": told["reports"] / (steps / LOG_EVERY + validations) * (planned // LOG_EVERY),
        f"{checks} pictures": told["pictures"] / validations * checks,
        f"{checks} checkpoints": told["checkpoints"] / validations * checks,
        f"first {every} steps slower": max(early, 0.0),
        "steps after them slower": max(1 - alone_steady / steady, 0.0) * seconds,
    }  # fmt: skip
    print(f"of {arguments.minutes:g} minutes with {planned} steps")
    for what, spent in rows.items():
        print(f"{what:28}{spent:8.1f} s{spent / seconds:8.2%}")
    print(f"{'overhead':28}{sum(rows.values()):8.1f} s{sum(rows.values()) / seconds:8.2%}")


if __name__ == "__main__":
    main()
