"""PostgreSQL without containers: Debian's programs, a cluster in the data folder, and a user that is not root."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import FewcastError
from deployments.stack.processes import Service, as_user

DATABASES = Path(__file__).parents[2] / "infra" / "postgres" / "databases.sh"
SIGINT = 2  # fast shutdown: do not wait for clients
PATIENCE_SECONDS = 60


@dataclass(frozen=True)
class Postgres:
    """A cluster in a folder, on a port of loopback."""

    folder: Path
    port: int
    secrets: Mapping[str, str]

    def prepare(self) -> None:
        """Make the cluster where there is none. Killed on the way it begins anew."""
        if (self.folder / "PG_VERSION").exists():
            return
        initdb, user = find_program("initdb"), owner()
        shutil.rmtree(self.folder, ignore_errors=True)
        beside = self.folder.with_suffix(".new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700, parents=True)
        _hand_over(beside, user)
        with tempfile.NamedTemporaryFile("w", prefix="fewcast-") as file:
            file.write(self.secrets["POSTGRES_PASSWORD"])
            file.flush()
            if user:
                os.chown(file.name, pwd.getpwnam(user).pw_uid, -1)
            words = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
            done = subprocess.run([initdb, "-D", str(beside), f"--pwfile={file.name}", *words],
                                  **as_user(user), env=_plain(), cwd="/", capture_output=True, text=True)  # fmt: skip
        if done.returncode:
            raise FewcastError(
                f"PostgreSQL cannot make its files in {self.folder}",
                found=(done.stderr.strip().splitlines() or ["no word"])[0],
                mend=f"let the user {user or 'that runs this'} into every folder above it (chmod o+x)",
            )
        beside.rename(self.folder)

    def service(self) -> Service:
        """The server. It listens on loopback alone, and on no socket file."""
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=60",
                  "-c", "shared_buffers=64MB"]  # fmt: skip
        command = [find_program("postgres"), "-D", str(self.folder), "-p", str(self.port), *listen]
        address = f"postgresql://127.0.0.1:{self.port}"
        return Service("postgres", command, address=address, environment=_plain(), user=owner(), farewell=SIGINT)

    def make_databases(self) -> None:
        """Once it answers: a database and a role for Prefect and for MLflow, where they are not there yet."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self._ask("SELECT count(*) FROM pg_database WHERE datname IN ('prefect', 'mlflow')")) is None:
            if time.monotonic() > deadline:
                raise FewcastError(
                    "postgres does not start",
                    found=f"no answer on port {self.port}",
                    mend=f"see {self.folder.parent / 'postgres.log'}, then run `make down` and `make up`",
                )
            time.sleep(0.2)
        if found != "2":
            subprocess.run(
                ["sh", str(DATABASES)], check=True, env=self._client_environment(), stdout=subprocess.DEVNULL
            )

    def _ask(self, question: str) -> str | None:
        done = subprocess.run([find_program("psql"), "--no-psqlrc", "-tAc", question, "postgres"],
                              env=self._client_environment(), capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else None

    def _client_environment(self) -> dict[str, str]:
        names = ("PREFECT_DATABASE_PASSWORD", "MLFLOW_DATABASE_PASSWORD")
        return {
            **client_environment(self.port, "postgres", self.secrets["POSTGRES_PASSWORD"]),
            "POSTGRES_USER": "postgres",
            **{name: self.secrets[name] for name in names},
        }

    def for_prefect(self) -> dict[str, str]:
        """What the Prefect server reads; never on a command line, where others see it."""
        return {
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": "127.0.0.1",
            "PREFECT_SERVER_DATABASE_PORT": str(self.port),
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_PASSWORD": self.secrets["PREFECT_DATABASE_PASSWORD"],
        }

    def for_mlflow(self) -> dict[str, str]:
        """What the MLflow server reads."""
        password = self.secrets["MLFLOW_DATABASE_PASSWORD"]
        return {"MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg2://mlflow:{password}@127.0.0.1:{self.port}/mlflow"}


def client_environment(port: int, user: str, password: str) -> dict[str, str]:
    """What PostgreSQL's own programs (psql, pg_dump) read."""
    return _plain() | {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}


def find_program(name: str) -> str:
    """One of PostgreSQL's programs, which Debian keeps off the PATH; `FewcastError` names the package."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name.split(".")[0]))
    for place in (*places, os.environ.get("PATH", "")):
        if found := shutil.which(name, path=str(place)):
            return found
    raise FewcastError(
        "the postgres profile needs PostgreSQL",
        found=f"no program {name}",
        mend="install the package postgresql (apt-get install postgresql), or leave PROFILE out for SQLite",
    )


def owner() -> str:
    """The user that the server runs as: PostgreSQL refuses root. Empty: whoever runs this."""
    if os.geteuid() != 0:
        return ""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise FewcastError("PostgreSQL refuses to run as root", found="no user postgres", mend="make a user postgres")


def _hand_over(folder: Path, user: str) -> None:
    if user:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def _plain() -> dict[str, str]:
    """The server needs none of our secrets in its environment."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}
