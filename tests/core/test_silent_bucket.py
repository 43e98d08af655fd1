"""An S3 endpoint that takes connections and says nothing, or lets its answers drip: no call waits for it for long."""

import socket
import threading
import time

import pytest
import s3fs

from core import patience
from core.archive import bucket
from core.errors import AwayError
from tests.core.loopback import CREDENTIALS
from tests.core.satellite.test_stall import drip, serving


@pytest.fixture
def silent(monkeypatch):
    """An archive's place there, and the connections that were made."""
    server = socket.create_server(("127.0.0.1", 0), backlog=50)
    made: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                made.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(bucket, "TRIES", 3)
    monkeypatch.setattr(bucket, "SILENT_SECONDS", 0.5)
    yield bucket.RemoteObjects("s3://archives/a.zarr"), made
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    for one in made:
        one.close()


CALLS = {
    "get": lambda objects: objects.get("zarr.json"),
    "keys": lambda objects: list(objects.keys("status")),
    "call": lambda objects: objects.call("head_object", "zarr.json"),
    "put": lambda objects: objects.put("zarr.json", b"{}"),
    "put of more than a socket holds": lambda objects: objects.put("shard", bytes(40_000_000)),
}


@pytest.mark.parametrize("call", CALLS)
def test_each_try_is_one_request_and_ends_in_time(silent, monkeypatch, call):
    monkeypatch.setattr(patience, "SLOWEST_BYTES_PER_SECOND", 1e9)
    objects, made = silent
    begin = time.monotonic()
    with pytest.raises(AwayError, match=r"s3://archives/a.zarr cannot be reached"):
        CALLS[call](objects)
    assert time.monotonic() - begin < 10
    assert 1 < len(made) <= 3  # the first may end before it has connected


READS = {
    "whole": lambda objects: objects.get("zarr.json"),
    "from its end": lambda objects: read_end(objects),
    "listing": lambda objects: objects.listing("status"),
}


def read_end(objects):
    with objects.reader("shard") as read:
        read(-100, None)


@pytest.mark.parametrize("how", READS)
def test_what_drips_is_given_up(silent, monkeypatch, how):
    monkeypatch.setattr(patience, "ANSWER_BYTES", 0)
    with serving(drip) as (config, asked):
        monkeypatch.setenv("AWS_ENDPOINT_URL", config.endpoint_url)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(AwayError, match=r"s3://archives/a.zarr cannot be reached"):
            READS[how](bucket.RemoteObjects("s3://archives/a.zarr"))
    assert len(asked) == 3
