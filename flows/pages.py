"""The Prefect and MLflow pages over what is there, on loopback, until Ctrl-C."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from core.errors import FewcastError
from flows.access import MLFLOW_ASKS, pages_of_prefect, read_auth

PATIENCE_SECONDS = 90
LOG_BYTES = 10_000_000


def serve_pages() -> int:
    """Start both servers, print their addresses, wait; whatever ends this ends them, by their own processes."""
    data = Path("data").resolve()
    data.mkdir(exist_ok=True)
    prefect_port, mlflow_port = free_port(4200), free_port(5000)
    store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{data / 'mlflow.db'}")
    auth = read_auth()
    commands = {
        f"http://127.0.0.1:{prefect_port}": [
            *(sys.executable, "-m", "flows.server"),
            *("--host", "127.0.0.1", "--port", str(prefect_port)),
        ],
        f"http://127.0.0.1:{mlflow_port}": [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"),
            *("--artifacts-destination", str(data / "mlflow-artifacts")),
            *("--host", "127.0.0.1", "--port", str(mlflow_port)),
            *(MLFLOW_ASKS if auth else ()),
        ],
    }
    told = os.environ | pages_of_prefect(f"http://127.0.0.1:{prefect_port}")
    if auth:
        told |= auth.for_prefect_server() | auth.for_mlflow_server(data, secrets.token_hex())
    with _log(data / "pages.log") as log:
        processes = {
            address: subprocess.Popen(command, env=told, stdout=log, stderr=log, start_new_session=True)
            for address, command in commands.items()
        }
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for (address, process), (name, path) in zip(
                processes.items(), (("Prefect", "/api/health"), ("MLflow", "/health")), strict=True
            ):
                wait_until_healthy(address + path, process, str(data / "pages.log"))
                print(f"{name:<8} {address}", flush=True)
            print("Ctrl-C ends both.", flush=True)
            while all(process.poll() is None for process in processes.values()):
                time.sleep(0.5)
            raise FewcastError(
                "a page's server ended", found="its process gone", mend=f"see {data / 'pages.log'}, and start it again"
            )
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, previous)
            for process in processes.values():
                end_process(process)


def _log(path: Path) -> BinaryIO:
    """The servers' log, which begins anew where it has grown long; the one before is kept beside it."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def free_port(wanted: int, beside: Collection[int] = ()) -> int:
    """`wanted` if nothing listens there and it is none of `beside`, else any free port of loopback."""
    for port in (*([] if wanted in beside else [wanted]), 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise FewcastError("no free port on 127.0.0.1", found="all in use", mend="end a server")


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: str) -> None:
    """Return once `url` answers 200; `FewcastError` if the process ends or time runs out."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise FewcastError("a page's server does not start", found=f"no answer from {url}", mend=f"see {log}")


def end_process(process: "subprocess.Popen[bytes]") -> None:
    """End a server and the processes it started (each has a session of its own), gently first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
