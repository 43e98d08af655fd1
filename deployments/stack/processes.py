"""Processes that outlive the command that started them, known again by id and by when they began.

State is one file, so that nothing else is ever ended in their place. Whatever a service starts, and what is left when
it is killed, bears its mark in the environment.
"""

import json
import os
import pwd
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from core.errors import FewcastError
from deployments.stack.notes import write_whole

PATIENCE_SECONDS = 240
GRACE_SECONDS = 20
LOG_BYTES = 20_000_000
MARK = "FEWCAST_STACK"


@dataclass(frozen=True)
class Service:
    """What to start, and the address that answers once it is well; empty: it is well while it lives."""

    name: str
    command: list[str]
    health: str = ""
    address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    user: str = ""  # empty: whoever runs this
    farewell: int = signal.SIGTERM


@dataclass(frozen=True)
class Running:
    """A process of ours, that its beginning tells from another with the same id."""

    pid: int
    started: float
    address: str
    farewell: int = signal.SIGTERM
    born: str = ""  # where the system says, as `birth` has it; a step of the clock moves the other

    def process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = birth(self.pid) == self.born if self.born else abs(process.create_time() - self.started) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class Processes:
    """The services whose state lies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = folder / "state.json"

    def running(self) -> dict[str, Running]:
        """What was started and lives, in the order in which it was started."""
        try:
            known = {name: Running(**entry) for name, entry in json.loads(self._state.read_text()).items()}
        except (OSError, ValueError, TypeError):
            known = {}
        return {name: entry for name, entry in known.items() if entry.process()}

    def start(self, service: Service, working_dir: Path) -> None:
        """Start a service that does not live, in a session of its own, with its output in `NAME.log`.

        A log that has grown long is put aside first, as `NAME.log.1`, in place of the one before.
        """
        if service.name in self.running():
            return
        path = self.folder / f"{service.name}.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(self.folder / f"{service.name}.log.1")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            process = subprocess.Popen(
                service.command, env={**service.environment, MARK: str(self.folder)}, cwd=working_dir,
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, **as_user(service.user),
            )  # fmt: skip
        started = psutil.Process(process.pid).create_time()
        entry = Running(process.pid, started, service.address, service.farewell, birth(process.pid))
        now = {**self.running(), service.name: entry}
        write_whole(self._state, json.dumps({name: asdict(entry) for name, entry in now.items()}, indent=1))

    def wait(self, service: Service) -> None:
        """Return once the service is well; `FewcastError` if it ends or time runs out."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and (entry := self.running().get(service.name)):
            if not service.health or (answers(service.health) and listens(entry.pid, service.health)):
                return
            time.sleep(0.2)
        raise FewcastError(
            f"{service.name} does not start",
            found=f"no answer from {service.health}" if service.name in self.running() else "its process gone",
            mend=f"see {self.folder / service.name}.log, then run `make down` and `make up`",
        )

    def end(self, name: str) -> None:
        """End a service and what it started: as it likes to be asked first, by force after a while."""
        entry = self.running().get(name)
        if entry and (process := entry.process()):
            family = [process, *process.children(recursive=True)]
            process.send_signal(entry.farewell)
            _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
            for left in alive:
                left.kill()

    def end_all(self) -> list[str]:
        """End every service, the last started first, and what killed ones left behind; returns their names."""
        ended = list(reversed(self.running()))
        for name in ended:
            self.end(name)
        if left := self.marked():
            for process in left:
                process.terminate()
            for process in psutil.wait_procs(left, timeout=GRACE_SECONDS)[1]:
                process.kill()
        self._state.unlink(missing_ok=True)
        return ended

    def marked(self) -> list[psutil.Process]:
        """Every living process that a service of this folder started, however far down."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == str(self.folder)
                if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


def as_user(name: str) -> dict[str, Any]:
    """What makes `subprocess` run something as a user, who else would keep our groups; empty: as whoever runs this."""
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []} if name else {}


def birth(pid: int) -> str:
    """The boot, and the tick of it, at which a process began; empty where the system is not Linux and does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return f"{boot} {stat.rpartition(')')[2].split()[19]}"  # the 22nd of all; a name may have blanks


def listens(pid: int, url: str) -> bool:
    """Whether it is a process or a child of its that answers at an address, and not a stranger who was quicker."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        sockets = [socket for member in family for socket in member.net_connections("tcp")]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    port = urlsplit(url).port
    return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in sockets)


def answers(url: str) -> bool:
    """Whether an address answers 200 at this moment."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
