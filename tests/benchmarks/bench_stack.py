"""A stack at rest: seconds until `make up` is healthy, its memory, and an `ingest-latest` run that finds nothing new.

    python tests/benchmarks/bench_stack.py [--runs 8] [--profile sqlite]

The stack of the soak in a folder of its own, with three slots in its bucket and its schedules paused; each run is asked
for by hand when the one before has ended. The times are the server's own: of the request, of Pending (a worker took it
up), of Running (its process began with the flow) and of Completed.
"""

import argparse
import os
import secrets
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "soak"))
from satellite import Satellite, sky
from witness import Memory, Witness

from deployments.stack import Stack

SLOTS, DEPLOYMENT = 3, "ingest/sky-latest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8, help="idle runs to time")
    parser.add_argument("--profile", default="sqlite", help="sqlite or postgres")
    options = parser.parse_args()
    os.environ["FEWCAST_AUTH"] = f"bench:{secrets.token_hex(12)}"
    with tempfile.TemporaryDirectory(prefix="fewcast-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL's own user must be able to enter
        stack = Stack(Path(folder) / "data")
        try:
            measure(stack, Path(folder), options)
        finally:
            stack.down()


def measure(stack: Stack, folder: Path, options: argparse.Namespace) -> None:
    config = folder / "sky.toml"
    config.write_text(sky(datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=10), SLOTS, 0.0))
    begin = time.monotonic()
    stack.up([str(config)], profile=options.profile)
    print(f"{psutil.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.profile}")
    print(f"healthy, with every deployment applied, after {time.monotonic() - begin:.1f} s")
    plan = stack.plan()
    os.environ.update({key: value for key, value in plan.client_environment().items() if key.startswith("AWS_")})
    satellite, witness, memory = Satellite(config, SLOTS), Witness(config, folder, plan), Memory(stack)
    satellite.make_buckets()
    for _ in range(SLOTS):
        satellite.publish()
    for deployment in witness.ask("/deployments/filter", {}):
        witness.ask(f"/deployments/{deployment['id']}", {"paused": True}, "PATCH")
    witness.push(DEPLOYMENT)
    deadline = time.monotonic() + 300
    while len(last_run(witness)) < 4 or not {*satellite.whole()} <= witness.complete():
        assert time.monotonic() < deadline, "the first ingest did not end"
        time.sleep(1)
    runs = [idle_run(witness) for _ in range(options.runs)]
    memory.sample()
    print(f"memory of its services {memory.samples[-1] / 1e9:.2f} GB")
    print(f"\nan idle ingest-latest, s{'median':>26}{'least':>8}{'most':>8}   of {options.runs} runs")
    stages = ("request to Pending", "Pending to Running", "Running to Completed")
    for name, seconds in zip(stages, zip(*(map(between, pairwise(run)) for run in runs), strict=True), strict=True):
        row(name, seconds)
    row("request to Completed", [between((run[0], run[-1])) for run in runs])


def idle_run(witness: Witness) -> list[datetime]:
    before = last_run(witness)
    witness.push(DEPLOYMENT)
    deadline = time.monotonic() + 120
    while len(times := last_run(witness)) < 4 or times == before:
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.5)
    return times


def last_run(witness: Witness) -> list[datetime]:
    """When the newest run was asked for, became Pending, Running and Completed; as far as it has come."""
    named = {"deployments": {"name": {"any_": [DEPLOYMENT.split("/")[1]]}}}
    found = witness.ask("/flow_runs/filter", {**named, "sort": "EXPECTED_START_TIME_DESC", "limit": 1})
    if not found:
        return []
    states = witness.ask(f"/flow_run_states/?flow_run_id={found[0]['id']}", None, "GET")
    first = {state["type"]: datetime.fromisoformat(state["timestamp"]) for state in reversed(states)}
    return sorted([datetime.fromisoformat(found[0]["created"]), *(first[t] for t in TYPES if t in first)])


TYPES = ("PENDING", "RUNNING", "COMPLETED")


def between(pair: tuple[datetime, datetime]) -> float:
    return (pair[1] - pair[0]).total_seconds()


def row(name: str, seconds: "list[float] | tuple[float, ...]") -> None:
    print(f"{name:24}{statistics.median(seconds):26.2f}{min(seconds):8.2f}{max(seconds):8.2f}")


if __name__ == "__main__":
    main()
