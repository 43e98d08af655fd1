"""All services over one data folder, up and down. Started twice it starts what is missing; data outlive it."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from core.errors import FewcastError
from deployments.pools import CPU_POOL, GPU_POOL
from deployments.stack.cure import crash_the_dead, runs_of
from deployments.stack.doors import try_door
from deployments.stack.notes import alone, write_whole
from deployments.stack.postgres import Postgres
from deployments.stack.processes import Processes, Running, Service
from deployments.stack.secrets import read_secrets
from deployments.stack.services import INNER_PORTS, PORTS, Plan
from flows.access import USERS, read_auth
from flows.pages import free_port

PROFILES = ("sqlite", "postgres")
TOLD = (
    "AWS_",
    "FEWCAST_AUTH",
    "FEWCAST_LOGS",
    "FEWCAST_PREFECT_URL",
)  # what of the environment decides how services start


def kept_profile(folder: Path) -> str:
    """The profile that a stack's records are in; empty where there are none. A cluster says more than the note."""
    if (folder / "postgres" / "PG_VERSION").exists():
        return "postgres"
    note = folder / "profile"
    return note.read_text().strip() if note.exists() else ""


def told() -> list[str]:
    """Which of these settings the environment has; a password may as well be given in a file."""
    keys = (key for key, value in os.environ.items() if value and key.startswith(TOLD))
    return sorted({key.removesuffix("_FILE") for key in keys})


class Stack:
    """The services whose data and state lie in one folder."""

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()
        self.folder = self.data / "stack"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.processes = Processes(self.folder)
        self._wanted = self.folder / "wanted.json"

    def running(self) -> dict[str, Running]:
        """What was started and lives."""
        return self.processes.running()

    def up(
        self, configs: Sequence[str] = (), profile: str = "", only: Collection[str] = (), deploy: bool = True
    ) -> dict[str, str]:
        """Start what is missing, wait until all is well, apply the deployments; returns the addresses.

        `only` names the services to start, where not all are wanted. Raises `FewcastError` where something does not
        start, a server does not ask for the password that is set, the profile is not the one that the data are in, or
        the folder is not called `data`.
        """
        if self.data.name != "data":
            raise FewcastError(
                "a stack's folder must be called data",
                found=str(self.data),
                mend=f"rename it, or give --data {self.data / 'data'}: workers look for data/... in the folder above",
            )
        with alone(self.folder):
            addresses = self._up(configs, profile, only, deploy)
            if not only:
                write_whole(self._wanted, json.dumps({"services": [*self.running()], "told": told()}))
        return addresses

    def keep(self) -> list[str]:
        """Start again what has died of a stack that is up, or was when the machine went down; returns the names.

        Does nothing where it was never up as a whole, or was ended by `down`, or another command is at work on it.
        Raises `FewcastError` as `up` does, and where it is not told what `up` was told.
        """
        with alone(self.folder, wait=False) as free:
            if not free or not self._wanted.exists():
                return []
            wanted = json.loads(self._wanted.read_text())
            lives = self.running()
            if not (dead := [name for name in wanted["services"] if name not in lives]):
                return []
            if lacking := [key for key in wanted["told"] if key not in told()]:
                raise FewcastError(
                    f"{', '.join(dead)} died, and would start without what `make up` was told",
                    found=f"{', '.join(lacking)} not set here",
                    mend="set it for this command too, in the crontab",
                )
            self._up((), "", (), deploy=False)
            if left := [name for name in dead if name not in self.running()]:
                raise FewcastError(
                    "not all of the stack came back", found=f"no {', '.join(left)}", mend="run `make up` and see"
                )
            return dead

    def _up(self, configs: Sequence[str], profile: str, only: Collection[str], deploy: bool) -> dict[str, str]:
        plan = self.plan(profile)
        for service in self._begin(plan.databases(), only):
            self.processes.wait(service)
        if plan.postgres:
            plan.postgres.make_databases()
        servers = self._begin(plan.servers(), only)
        self.processes.wait(servers[0])  # prefect
        self._try_door("prefect", plan)
        if deploy:
            self._deploy(configs, plan)
        self._cure(plan)
        for service in (*servers, *self._begin(plan.workers(), only)):
            self.processes.wait(service)
        self._try_door("mlflow", plan)
        return {service.name: service.address for service in servers if service.address}

    def down(self) -> list[str]:
        """End what was started, the workers first, and whatever a killed one left; returns their names."""
        with alone(self.folder):
            self._wanted.unlink(missing_ok=True)
            return self.processes.end_all()

    def plan(self, profile: str = "") -> Plan:
        """How the services are started over this folder."""
        profile = self._profile(profile)
        ports, secrets = self._ports(), read_secrets(self.folder)
        postgres = None
        if profile == "postgres":
            postgres = Postgres(self.folder / "postgres", ports["postgres"], secrets)
            postgres.prepare()
        write_whole(self.folder / "profile", profile)  # last: what could not be made binds nobody
        return Plan(self.data, ports, secrets, read_auth(), postgres)

    def _begin(self, services: list[Service], only: Collection[str]) -> list[Service]:
        chosen = [service for service in services if not only or service.name in only or service.name == "postgres"]
        for service in chosen:
            self.processes.start(service, self.data.parent)
        return chosen

    def _deploy(self, configs: Sequence[str], plan: Plan) -> None:
        chosen = [word for config in configs for word in ("--config", config)]
        words = ["deployments.deploy", "--apply", "--working-dir", str(self.data.parent), *chosen]
        done = subprocess.run(
            [sys.executable, "-m", *words], env=plan.client_environment(), capture_output=True, text=True
        )
        if done.returncode:
            raise FewcastError(
                "the deployments were not applied",
                found=(done.stderr.strip().splitlines() or ["no word"])[-1],
                mend="mend that and run `make up` again; the services stay up",
            )
        print(*(f"{line}\n" for line in done.stdout.splitlines() if "left over" in line), sep="", end="")

    def _cure(self, plan: Plan) -> None:
        lives = self.running()
        if pools := [pool for pool in (CPU_POOL, GPU_POOL) if f"worker-{pool}" not in lives]:
            crash_the_dead(f"{plan.url('prefect')}/api", plan.auth, pools, runs_of(self.processes.marked()))

    def _profile(self, asked: str) -> str:
        """The profile of the data: chosen when they are first made, and kept."""
        kept = kept_profile(self.folder)
        chosen = asked or kept or "sqlite"
        if chosen not in PROFILES:
            raise FewcastError("no such profile", found=repr(chosen), mend=f"choose one of {', '.join(PROFILES)}")
        if kept and chosen != kept:
            raise FewcastError(
                f"the records in {self.data} are in {kept}",
                found=f"PROFILE={chosen}",
                mend="leave PROFILE out, or use another folder with --data",
            )
        return chosen

    def _ports(self) -> dict[str, int]:
        """The ports of last time as far as ours or free, else the usual ones, else any: addresses survive a restart."""
        note = self.folder / "ports.json"
        before: dict[str, int] = json.loads(note.read_text()) if note.exists() else {}
        lives = self.running()
        ports: dict[str, int] = {}
        for name in (*PORTS, *INNER_PORTS):
            wanted = before.get(name) or PORTS.get(name, 0)
            owner = name if name in PORTS or name.startswith("worker-") else "s3"
            ports[name] = wanted if owner in lives else free_port(wanted, beside=ports.values())
        write_whole(note, json.dumps(ports))
        return ports

    def _try_door(self, name: str, plan: Plan) -> None:
        if plan.auth and name in self.running():
            try_door(name, plan.url(name), plan.auth, self.data / USERS)
