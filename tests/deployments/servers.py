"""A Prefect server of a test, behind a password."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.deployments.waiting import end, until

AUTH = "someone:" + "a password of the test"


@contextmanager
def prefect_server(folder: Path, port: int = 0) -> Iterator[httpx.Client]:
    """On loopback, at a free port if none is given, with its records in the folder; what is given is a client of it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "DO_NOT_TRACK": "true",
    }
    command = [sys.executable, "-m", "flows.server", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    user, _, password = AUTH.partition(":")
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30, auth=(user, password)) as client:
            until(lambda: client.get("/health").status_code == 200, 240, server)
            yield client
    finally:
        end(server)


def reach(api: httpx.Client) -> dict[str, str]:
    """What a process is told of it."""
    return {"PREFECT_API_URL": str(api.base_url).rstrip("/"), "FEWCAST_AUTH": AUTH}
