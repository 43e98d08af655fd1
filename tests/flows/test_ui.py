"""What `fewcast ui` tells the servers that it starts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import pages

Started = list[tuple[list[str], dict[str, str]]]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Started:
    """The commands and environments of the servers, which are not started: Prefect's and MLflow's."""
    commands: Started = []

    def start(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        commands.append((command, env))
        return SimpleNamespace(poll=lambda: 1)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "free_port", lambda wanted: wanted + 700)
    monkeypatch.setattr(pages.subprocess, "Popen", start)
    monkeypatch.setattr(pages, "wait_until_healthy", stop)
    monkeypatch.setattr(pages, "end_process", lambda process: None)
    return commands


def test_the_page_asks_its_own_server_whatever_the_port(started: Started) -> None:
    """Where 4200 is another's, the page would show, and start, the other's runs."""
    assert pages.serve_pages() == 0
    (command, environment), (mlflow, _) = started
    assert command[2:] == ["flows.server", "--host", "127.0.0.1", "--port", "4900"]
    assert environment["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4900/api"
    assert environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4900,http://localhost:4900"
    assert "basic-auth" not in mlflow


def test_behind_another_name_the_page_asks_there_and_may(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWCAST_PREFECT_URL", "https://prefect.example.org/")
    assert pages.serve_pages() == 0
    (_, environment), _ = started
    assert environment["PREFECT_SERVER_UI_API_URL"] == "https://prefect.example.org/api"
    assert environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"].startswith("https://prefect.example.org,http://127.0.0.1")


def test_both_servers_ask_for_the_password_that_is_set(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEWCAST_AUTH", "someone:a long password")
    assert pages.serve_pages() == 0
    (_, prefect), (command, mlflow) = started
    assert prefect["PREFECT_SERVER_API_AUTH_STRING"] == "someone:a long password"
    assert command[-2:] == ["--app-name", "basic-auth"]
    assert mlflow["MLFLOW_AUTH_ADMIN_PASSWORD"] == "a long password"
    assert str(tmp_path / "data" / "mlflow-users.db") in Path(mlflow["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    assert not [word for command, _ in started for word in command if "a long password" in word]


def test_a_long_log_begins_anew_and_the_one_before_is_kept(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "data" / "pages.log"
    log.parent.mkdir()
    for words in (b"first", b"longer than that"):
        log.write_bytes(words)
        monkeypatch.setattr(pages, "LOG_BYTES", len(b"first"))
        assert pages.serve_pages() == 0
    assert log.read_bytes() == b""
    assert log.with_suffix(".log.1").read_bytes() == b"longer than that"
