"""A real S3 server on loopback, and a proxy before it that misbehaves on purpose."""

import http.client
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError

# Clients in the tests have a session of their own: boto3's default one keeps the first credentials that it saw.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "fewcast",
    "AWS_SECRET_ACCESS_KEY": "loopback-only",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def seaweed() -> Iterator[str]:
    """The `weed` server with one set of credentials; yields its endpoint, and leaves nothing behind."""
    program = Path(sys.executable).parent / "weed"
    folder = tempfile.mkdtemp(prefix="fewcast-s3-")
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = free_ports(8)
    options = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.volumeSizeLimitMB": 256, "volume.max": 50,
        "master.port": master, "master.port.grpc": master_grpc, "volume.port": volume, "volume.port.grpc": volume_grpc,
        "filer.port": filer, "filer.port.grpc": filer_grpc, "s3.port": s3, "s3.port.grpc": s3_grpc,
        "s3.autoCreateBucket": "false", "s3.port.iceberg": 0, "s3.port.lance": 0,
    }  # fmt: skip
    command = [str(program), "server", "-s3", "-filer", *(f"-{name}={value}" for name, value in options.items())]
    secrets = {"AWS_ACCESS_KEY_ID": CREDENTIALS["AWS_ACCESS_KEY_ID"],
               "AWS_SECRET_ACCESS_KEY": CREDENTIALS["AWS_SECRET_ACCESS_KEY"]}  # fmt: skip
    with open(f"{folder}/log", "wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | secrets, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_for(s3, server, Path(folder) / "log")
        _wait_for_credentials(f"http://127.0.0.1:{s3}")
        yield f"http://127.0.0.1:{s3}"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")


def _wait_for_credentials(endpoint: str) -> None:
    """The server answers before it has read whom it knows."""
    client = boto3.session.Session().client("s3", endpoint_url=endpoint, region_name="us-east-1",
                          aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
                          aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"])  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        try:
            client.list_buckets()
            return
        except ClientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def faulty(
    endpoint: str, *, rate: float, seed: int = 0, lines: list[str] | None = None
) -> Iterator[tuple[str, dict[str, int]]]:
    """A proxy that spoils a share of the requests; yields its endpoint and how often each fault was served.

    500, throttling (503 SlowDown), a reset before the answer, a reset after the server has acted, a body cut short, a
    slow body, and one that drips for ever. Each request's first line is added to `lines`.
    """
    host, port = endpoint.removeprefix("http://").split(":")
    rng, guard = random.Random(seed), threading.Lock()
    served: dict[str, int] = {}

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def relay(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with guard:
                if lines is not None:
                    lines.append(self.requestline)
                spoiled = sum(count for name, count in served.items() if name)
                fault = FAULTS[spoiled % len(FAULTS)] if rng.random() < rate else ""  # in turn: each kind is met
                served[fault] = served.get(fault, 0) + 1
            if fault in ("500", "503"):
                self._answer(int(fault), {}, b"")
                return
            if fault == "reset":
                self._reset()
                return
            connection = http.client.HTTPConnection(host, int(port), timeout=30)
            # The Host header is part of the signature: it must name the proxy, as the client signed it.
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "reset after":
                self._reset()
            elif fault == "cut" and len(content) > 1:
                self._answer(answer.status, dict(answer.headers), content[: len(content) // 2], len(content))
                self._reset()
            elif fault == "drip":
                self._answer(answer.status, dict(answer.headers), b"", len(content))
                self._drip(content)
            else:
                if fault == "slow":
                    time.sleep(0.3)
                self._answer(answer.status, dict(answer.headers), content)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int | None = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            if self.command == "HEAD":
                length = int(headers.get("Content-Length") or 0)
                body = b""
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def _drip(self, body: bytes) -> None:
            with suppress(OSError):  # it has been given up
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.1)

        def _reset(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = relay  # noqa: N815

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}", served
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


FAULTS = ("500", "503", "reset", "reset after", "cut", "slow", "drip")


@contextmanager
def lone_cluster() -> "Iterator[tuple[str, subprocess.Popen[bytes], subprocess.Popen[bytes]]]":
    """The address of a Dask scheduler, its process, and that of its only worker; nobody starts either again."""
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    root = str(Path(__file__).parents[2])
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": root}
    start = [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [*start, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        **quiet,
    )
    worker = subprocess.Popen(
        [*start, "distributed.cli.dask_worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard"],
        env=os.environ | {"PYTHONPATH": root}, **quiet,
    )  # fmt: skip
    try:
        yield address, scheduler, worker
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
