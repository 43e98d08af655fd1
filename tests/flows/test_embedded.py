"""What a command sets for prefect before it is imported."""

import os
from pathlib import Path

import pytest

from flows.embedded import HEARTBEAT, prepare


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An environment of the test's own, without a word on prefect, in place of the process's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW", "FEWCAST"))}
    monkeypatch.setattr(os, "environ", kept)
    monkeypatch.chdir(tmp_path)
    return kept


def test_a_run_by_hand_beats_as_the_rules_of_a_named_server_expect(environment: dict[str, str]) -> None:
    environment["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    prepare()
    assert environment.items() >= HEARTBEAT.items()


def test_without_a_server_no_one_hears_heartbeats(environment: dict[str, str]) -> None:
    prepare()
    assert not environment.keys() & HEARTBEAT.keys()
    assert environment["PREFECT_HOME"].endswith("data/prefect")
