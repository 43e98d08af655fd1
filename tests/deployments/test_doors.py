"""A password that is set is asked for by servers that were started before, or `make up` says that it is not;
and no page of another site may ask them.
"""

import base64
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from core.errors import FewcastError
from deployments.stack import Stack
from deployments.stack.doors import ASKED, try_door
from deployments.stack.processes import Service
from flows.access import Auth

AUTH = Auth("someone", "a long password")
OPEN = """
from http.server import BaseHTTPRequestHandler, HTTPServer
import sys
class Open(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[1])), Open).serve_forever()
"""
Serve = Callable[[str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that lets in whoever knows a password; empty: everybody. Returns its address."""
    servers = []

    def start(password: str) -> str:
        wanted = f"Basic {base64.b64encode(f'someone:{password}'.encode()).decode()}" if password else None

        class Door(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if wanted in (None, self.headers["Authorization"]) else 401)
                self.end_headers()

        servers.append(HTTPServer(("127.0.0.1", 0), Door))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ASKED)
def test_a_door_is_open_to_the_password_alone(name: str, serve: Serve, tmp_path: Path) -> None:
    try_door(name, serve(AUTH.password), AUTH, tmp_path)
    with pytest.raises(FewcastError, match=rf"{name} asks for no password.*started without FEWCAST_AUTH.*make down"):
        try_door(name, serve(""), AUTH, tmp_path)
    with pytest.raises(FewcastError, match=rf"(?i){name} does not take FEWCAST_AUTH.*401.*make down"):
        try_door(name, serve("another password"), AUTH, tmp_path)


def test_a_server_that_ran_before_the_password_was_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWCAST_AUTH", f"{AUTH.user}:{AUTH.password}")
    stack = Stack(tmp_path / "data")
    before = Service("prefect", [sys.executable, "-c", OPEN, str(stack.plan().ports["prefect"])])
    try:
        stack.processes.start(before, tmp_path)
        with pytest.raises(FewcastError, match=r"prefect asks for no password"):
            stack.up(only=["prefect"], deploy=False)
    finally:
        stack.down()


def test_pages_of_another_site_may_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWCAST_PREFECT_URL", "https://prefect.example.org")
    stack = Stack(tmp_path / "data")
    try:
        address = stack.up(only=["prefect"], deploy=False)["prefect"]

        def may(origin: str) -> bool:
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "content-type"}  # fmt: skip
            answer = httpx.options(f"{address}/api/flow_runs/filter", headers=asked, timeout=60)
            return answer.is_success and answer.headers.get("access-control-allow-origin") == origin

        for own in (address, address.replace("127.0.0.1", "localhost"), "https://prefect.example.org"):
            assert may(own)
        for foreign in ("https://evil.example", "http://127.0.0.1:1", "null"):
            assert not may(foreign)
            read = httpx.post(f"{address}/api/flow_runs/filter", json={}, headers={"Origin": foreign}, timeout=60)
            assert "access-control-allow-origin" not in read.headers
    finally:
        stack.down()
