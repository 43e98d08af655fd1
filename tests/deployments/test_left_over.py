"""What earlier deployments left on the server is named, and goes if that is asked for."""

import subprocess
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from deployments import deploy
from deployments.stack import Stack


class Server:
    """A client with two deployments and two automations of ours, and one of either of another's."""

    def __init__(self) -> None:
        def item(name: str, entrypoint: str = "", *tags: str) -> Any:
            return SimpleNamespace(id=uuid4(), name=name, entrypoint=entrypoint, tags=tags)

        self.deployments = [
            item("now", "flows.train.train", "train", "limit-2h"),
            item("old", "flows.train.train", "train", "limit-2h"),
            item("theirs", "flows.py:main", "limit-2h"),
            item("also theirs", "flows.train.train"),
        ]
        self.automations = [item("fewcast: now"), item("fewcast: old"), item("theirs")]
        self.deleted: list[UUID] = []
        self.delete_deployment = self.delete_automation = self.deleted.append

    def read_deployments(self, limit: int, offset: int) -> list[Any]:
        return self.deployments[offset : offset + limit]

    def read_automations(self, limit: int, offset: int) -> list[Any]:
        return self.automations[offset : offset + limit]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """The one that the deployments ask."""
    made = Server()

    @contextmanager
    def get_client(**_: Any) -> Any:
        yield made

    monkeypatch.setattr(deploy, "get_client", get_client)
    return made


@pytest.mark.parametrize("delete", [False, True])
def test_what_is_in_no_config_any_more(
    delete: bool, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.listing.PAGE", 2)
    deploy.clear_left_over({"train/now": server.deployments[0].id}, ["fewcast: now"], delete=delete)
    said = capsys.readouterr().out.splitlines()
    word = "deleted" if delete else "left over"
    assert said[:2] == [f"{word}: deployment flows.train.train/old", f"{word}: automation fewcast: old"]
    assert ("what is left over still runs; --prune deletes it" in said) != delete
    assert server.deleted == ([server.deployments[1].id, server.automations[1].id] if delete else [])


def test_make_up_says_what_is_left_over_and_no_more(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.clear_left_over({}, [], delete=False)
    said = capsys.readouterr().out
    applied = subprocess.CompletedProcess([], 0, f"train/now, by hand\nautomation fewcast: now\n{said}", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: applied)
    stack = Stack(tmp_path / "data")
    stack._deploy([], stack.plan())
    assert capsys.readouterr().out == said
    assert len(said.splitlines()) == 5
