"""Prefect and MLflow without a server: everything beside the data, nothing over the network.

`prepare` must run before prefect is first imported, since prefect reads its home then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import FewcastError
from flows.access import open_doors
from flows.logs import log_settings

DATA = Path("data")
# One process after another shares one SQLite file; a start on a busy machine takes longer than prefect allows for.
STARTUP_SECONDS = 180
# Between heartbeats of a run, the least that prefect allows. Whoever runs flows for a server must keep to it: a rule
# there takes a run that misses a few for dead, wherever it was started.
HEARTBEAT_SECONDS = 30
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}


def prepare_clients() -> None:
    """Set what the clients of MLflow and Prefect read in a command that starts no flow, where the user has not."""
    open_doors()
    for key in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
        os.environ.setdefault(key, "true")


def prepare() -> None:
    """Set prefect's and MLflow's environment, where the user has not done it.

    A server named by PREFECT_API_URL, or a home of the user's own, is used as it is. The terminal belongs to the
    command line: prefect's log lines go to the run's page alone, unless structured logs are asked for.
    """
    prepare_clients()
    quiet = {
        **log_settings(),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nine processes and 2 GB that nothing here uses
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
    }
    if is_served():
        quiet |= HEARTBEAT
    else:
        home = Path(os.environ.get("PREFECT_HOME") or DATA / "prefect").resolve()
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FewcastError(
                f"cannot make {home}, where Prefect keeps its records",
                found=error.strerror or str(error),
                mend="start fewcast in a folder that you may write to, or set PREFECT_HOME",
            ) from error
        quiet |= {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        }
    quiet.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    for key, value in quiet.items():
        os.environ.setdefault(key, value)


def is_served() -> bool:
    """Whether a Prefect server is named, by the environment or a profile of the user's."""
    return bool(os.environ.get("PREFECT_API_URL"))


@contextmanager
def in_process() -> Iterator[None]:
    """Without a server no one watches heartbeats, and their thread costs each flow run a second."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if is_served():
        yield
    else:
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
