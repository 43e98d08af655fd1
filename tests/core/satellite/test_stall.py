"""A server that stops in the middle of a body and keeps the connection: no download waits for it for ever."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from core.satellite import remote
from core.satellite.granule import Granule, Reason, UnavailableGranule
from tests.core.satellite.test_source import settings

SIZE = 1000


@pytest.fixture
def stalling(monkeypatch) -> Iterator[tuple[str, list[str]]]:
    """The endpoint, and the requests that it has left without an end."""
    asked: list[str] = []
    end = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(SIZE))
            self.end_headers()
            self.wfile.write(b"x" * (SIZE // 2))
            self.wfile.flush()
            end.wait(60)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    end.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_stalls_is_tried_again_and_given_up(stalling):
    endpoint, asked = stalling
    config = settings("s3://bucket", endpoint_url=endpoint, anonymous=False, timeout_seconds=0.5, retries=1)
    granule = Granule("s3://bucket/key.nc", "ir105", np.datetime64("2023-09-05"), SIZE)
    begin = time.monotonic()
    with pytest.raises(UnavailableGranule) as caught:
        remote.fetch(granule, config)
    assert caught.value.reason is Reason.UNREACHABLE
    assert len(asked) == 2
    assert time.monotonic() - begin < 20
