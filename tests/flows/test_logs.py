"""Structured logs by one setting."""

import json
import logging
import logging.config

import pytest
from prefect.logging.configuration import DEFAULT_LOGGING_SETTINGS_PATH, load_logging_config
from prefect.logging.handlers import PrefectConsoleHandler

from core.errors import FewcastError
from flows.logs import log_settings, wants_json


def test_each_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for key, value in log_settings({"FEWCAST_LOGS": "json"}).items():
        monkeypatch.setenv(key, value)
    config = load_logging_config(DEFAULT_LOGGING_SETTINGS_PATH)
    chosen = config["handlers"]["console"]["formatter"]
    formatter = logging.config.DictConfigurator(config).configure_formatter(config["formatters"][chosen])
    handler = PrefectConsoleHandler()
    handler.setFormatter(formatter)
    handler.emit(logging.LogRecord("tasks", logging.WARNING, "x.py", 1, "two\nlines of text", (), None))
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert (found["msg"], found["levelname"], found["name"]) == ("two\nlines of text", "WARNING", "tasks")


def test_plain_text_changes_nothing_and_another_form_is_refused() -> None:
    assert log_settings({}) == {}
    assert not wants_json({"FEWCAST_LOGS": "text"})
    with pytest.raises(FewcastError, match="FEWCAST_LOGS=xml; choose text or json"):
        wants_json({"FEWCAST_LOGS": "xml"})
