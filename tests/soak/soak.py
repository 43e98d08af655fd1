"""The whole stack under a simulated satellite, with everything going wrong that may: `make soak`.

`python tests/soak/soak.py --slots 200 --seconds 30 --kills 5`. A slot is published every so many seconds, with
faults; workers are killed, the server is killed, S3 goes away; what was killed is started again as `make up` does it.
At the end every slot that was published whole is complete in the archive, and has its nowcast or a logged word that a
newer one superseded it; nothing is there twice, no process is left, memory has not grown, and no log holds a secret.
The last line says so and the exit code is 0, or it says what is wrong.
"""

import argparse
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
from satellite import Satellite, sky, train_model
from witness import Memory, Witness

from deployments.stack import Stack


class Soak:
    """One run: a stack over a folder, a satellite, and a plan of what goes wrong when."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.password = secrets.token_hex(12)
        os.environ["FEWCAST_AUTH"] = f"soak:{self.password}"
        self.stack = Stack(folder / "data")
        start = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=options.slots + 5)
        self.config = folder / "sky.toml"
        self.config.write_text(sky(start, options.slots, options.faults))
        self.started = time.monotonic()
        self.kills = 0
        self.summary = "it did not get so far"

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:7.0f} s  {text}", flush=True)

    def run(self) -> list[str]:
        """Everything from the first start to the last; returns what is wrong."""
        begin = time.monotonic()
        training = subprocess.Popen([sys.executable, __file__, "--train", str(self.folder)], cwd=self.folder)
        self.stack.up([str(self.config)], profile=self.options.profile)
        self.say(f"the stack is up on {self.options.profile} after {time.monotonic() - begin:.0f} s")
        plan = self.stack.plan()
        told = plan.client_environment()
        os.environ.update({key: value for key, value in told.items() if key.startswith("AWS_")})
        if training.wait():
            return ["the model was not trained"]
        satellite = Satellite(self.config, self.options.slots)
        witness = Witness(self.config, self.folder, plan)
        memory = Memory(self.stack)
        satellite.make_buckets()
        while satellite.published < 3 or not witness.starts({*satellite.whole()}):  # enough for a first nowcast
            satellite.publish()
        witness.wait_for_a_nowcast(self.options.patience, self.options.push)
        self.say("the first nowcast is there")
        memory.sample()
        self._disturbed(satellite, witness, memory)
        witness.wait_until_settled(satellite, self.options.patience, self.options.push)
        self.say("settled")
        problems = witness.problems(satellite) + memory.problems(self.options.slots)
        self.summary = f"{witness.summary(satellite)}; {self.kills} kills; memory {memory.summary}"
        self.stack.down()
        time.sleep(1)
        problems += [f"an orphan: {process.name()} {process.pid}" for process in self.stack.processes.marked()]
        kept = {**plan.secrets, "FEWCAST_AUTH": self.password}
        del kept["AWS_ACCESS_KEY_ID"]  # a name, not a secret: the S3 server writes whom it knows
        return problems + leaks(self.folder / "data", kept)

    def _disturbed(self, satellite: Satellite, witness: Witness, memory: Memory) -> None:
        """Publish the rest, a slot every so many seconds; what goes wrong goes wrong beside it."""
        slots, kills, first = self.options.slots, self.options.kills, satellite.published
        plan = {first + (slots - first) * (2 * n + 1) // (2 * kills + 4): "worker" for n in range(kills)}
        plan[first + (slots - first) * (2 * kills + 1) // (2 * kills + 4)] = "server"
        plan[first + (slots - first) * (2 * kills + 3) // (2 * kills + 4)] = "s3"
        beside: list[threading.Thread] = []
        next_time = time.monotonic()
        while satellite.published < slots:
            if what := plan.get(satellite.published):
                beside.append(threading.Thread(target=self._disturb, args=(what, list(beside))))
                beside[-1].start()
            satellite.publish()
            if self.options.push:
                witness.push("ingest/sky-latest")
            memory.sample()
            next_time += self.options.seconds
            time.sleep(max(0.0, next_time - time.monotonic()))
        for thread in beside:
            thread.join()

    def _disturb(self, what: str, before: list[threading.Thread]) -> None:
        for thread in before:
            thread.join()
        self.kills += 1
        if what == "worker":
            entry = self.stack.running()["worker-fewcast-cpu"]
            family = [psutil.Process(entry.pid)]
            if self.kills % 2:  # with the runs that it has at work, or leaving them behind
                family += family[0].children(recursive=True)
            for process in family:
                process.kill()
            self.say(f"killed the worker and {len(family) - 1} processes of its runs")
            time.sleep(self.options.away / 4)
        elif what == "server":
            psutil.Process(self.stack.running()["prefect"].pid).kill()
            self.say("killed the Prefect server")
            time.sleep(self.options.away / 4)
        else:
            self.stack.processes.end("s3")
            self.say(f"S3 is away for {self.options.away:.0f} s")
            time.sleep(self.options.away)
        self.stack.up([str(self.config)], deploy=False)
        self.say(f"{what} is back")


def leaks(data: Path, kept: dict[str, str]) -> list[str]:
    """Files beside the one that holds them in which a secret stands: logs, databases, artifacts, metadata."""
    found = []
    for path in data.rglob("*"):
        if path.is_file() and path.name != "secrets.json":
            content = path.read_bytes()
            found += [f"{name} stands in {path}" for name, secret in kept.items() if secret.encode() in content]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=200, help="slots that the satellite publishes")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds from one slot to the next")
    parser.add_argument("--kills", type=int, default=5, help="how often a worker is killed")
    parser.add_argument("--away", type=float, default=60.0, help="seconds for which S3 is away")
    parser.add_argument("--faults", type=float, default=0.15, help="share of granules that are spoilt or late")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for the last work to settle")
    parser.add_argument("--profile", default="sqlite", help="sqlite or postgres")
    parser.add_argument("--push", action="store_true", help="start an ingest with each slot, not each minute alone")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train_model(options.train)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the stack is ended with this
    folder = Path(tempfile.mkdtemp(prefix="fewcast-soak-"))
    folder.chmod(0o755)  # PostgreSQL's own user must be able to enter
    soak = Soak(folder, options)
    problems = ["it did not end"]
    try:
        problems = soak.run()
    finally:
        soak.stack.down()
        if not options.keep and not problems:
            shutil.rmtree(folder)
    for problem in problems:
        soak.say(f"WRONG: {problem}")
    took = time.monotonic() - soak.started
    print(f"soak: {soak.summary}; {took:.0f} s; {f'{len(problems)} PROBLEMS in {folder}' if problems else 'ok'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
