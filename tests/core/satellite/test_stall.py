"""A server that stops in the middle of a body, or lets it drip: no download waits for it for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from core.config import IngestConfig
from core.errors import AwayError
from core.satellite import remote, source
from core.satellite.granule import Granule, Reason, UnavailableGranule
from tests.core.satellite import test_courier
from tests.core.satellite.test_source import settings

SIZE = 50_000
Pour = Callable[[Callable[[bytes], object], threading.Event], object]


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr("core.patience.ANSWER_BYTES", 0)


def stall(write: Callable[[bytes], object], end: threading.Event) -> None:
    write(b"x" * (SIZE // 2))
    end.wait(60)


def drip(write: Callable[[bytes], object], end: threading.Event) -> None:
    while not end.wait(0.2):
        write(b"x")


def trickle(write: Callable[[bytes], object], end: threading.Event) -> None:
    """One of eight downloads over a line of 100 kB/s."""
    for _ in range(20):
        end.wait(0.2)
        write(b"x" * (SIZE // 20))


@contextmanager
def serving(pour: Pour) -> Iterator[tuple[IngestConfig, list[str]]]:
    """Settings for a server that pours out its bodies so, and the requests that it has had."""
    asked: list[str] = []
    end = threading.Event()

    class Server(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(SIZE))
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.path)
            self.do_HEAD()
            with suppress(OSError):
                pour(self.wfile.write, end)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield settings("s3://bucket", endpoint_url=endpoint, anonymous=False, timeout_seconds=0.5, retries=1), asked
    finally:
        end.set()
        server.shutdown()
        server.server_close()
        thread.join()


GRANULE = Granule("s3://bucket/key.nc", "ir105", np.datetime64("2023-09-05"), SIZE)


WAYS = {
    "whole": remote.fetch,
    "by blocks": lambda granule, config: remote.Blocks(granule, config).piece(0, 10),
    "by the courier": source.fetch,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pour", [stall, drip])
def test_a_download_that_comes_to_no_end_is_tried_again_and_given_up(pour, way, monkeypatch):
    with serving(pour) as (config, asked):
        if way == "by the courier":
            test_courier.start_the_courier(config, monkeypatch)
        begin = time.monotonic()
        with pytest.raises(UnavailableGranule) as caught:
            WAYS[way](GRANULE, config)
    assert caught.value.reason is Reason.UNREACHABLE
    assert len(asked) == 2
    assert time.monotonic() - begin < 20


def test_a_listing_that_drips_is_given_up():
    with serving(drip) as (config, asked):
        begin = time.monotonic()
        with pytest.raises(AwayError, match="cannot be reached"):
            source.list_granules(config)
    assert len(asked) == 2
    assert time.monotonic() - begin < 20


def test_a_slow_line_is_waited_for():
    with serving(trickle) as (config, asked):
        assert remote.fetch(GRANULE, config) == b"x" * SIZE
    assert len(asked) == 1


def test_the_connection_of_what_was_given_up_is_not_used_again():
    pours = [drip, trickle]
    with serving(lambda *told: pours.pop(0)(*told)) as (config, asked):
        assert remote.fetch(GRANULE, config) == b"x" * SIZE
    assert len(asked) == 2
