"""What a command sets for prefect before it is imported."""

import os
from pathlib import Path

import pytest

import tasks.tracking
from flows import access, cli, commands
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


@pytest.mark.parametrize(
    ("rank", "words"), [("0", ["train", "--probe"]), ("1", ["train"]), ("0", ["runs", "compare", "a", "b"])]
)
def test_commands_that_start_no_flow_open_the_same_doors(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, rank: str, words: list[str]
) -> None:
    environment["RANK"] = rank
    monkeypatch.setattr(access, "read_auth", lambda: access.Auth("someone", "a long password"))
    seen = []

    def look(*_: object) -> int:
        seen.append((environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_DISABLE_TELEMETRY"]))
        return 0

    for name in ("probe", "follow"):
        monkeypatch.setattr(commands, name, look)
    monkeypatch.setattr(tasks.tracking, "compare", lambda *_: [look()][:0])
    config = ["--config", str(Path(__file__).with_name("tiny.toml"))] if words[0] == "train" else []
    assert cli.main([*words, *config]) == 0
    assert seen == [("someone", "true")]
