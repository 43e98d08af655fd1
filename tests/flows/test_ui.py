"""What `fewcast ui` tells the servers that it starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import pages


def test_the_page_asks_its_own_server_whatever_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 4200 is another's, the page would show, and start, the other's runs."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        started.append((command, env))
        return SimpleNamespace(poll=lambda: 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "free_port", lambda wanted: wanted + 700)
    monkeypatch.setattr(pages.subprocess, "Popen", start)
    monkeypatch.setattr(pages, "wait_until_healthy", stop)
    monkeypatch.setattr(pages, "end_process", lambda process: None)
    assert pages.serve_pages() == 0
    command, environment = started[0]
    assert command[2:] == ["flows.server", "--host", "127.0.0.1", "--port", "4900"]
    assert environment["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4900/api"
