"""Models by name where the registry answers, does not have them, or does not answer."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import RestException

from core.config import TrackingConfig
from core.errors import AwayError, FewcastError
from tasks.tracking import local, local_run, server
from tests.core.loopback import free_ports

RUN = "models:/sky@champion"


class Registry:
    """A server's answers: the version that `champion` is."""

    def __init__(self, number: int) -> None:
        self.number = number

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        if alias != "champion":
            raise RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no alias {alias}"})
        return SimpleNamespace(name=name, source=f"runs:/{self.number}")


class Said:
    """A report that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, *_: Any) -> None: ...

    metrics = figure = progress


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    """A server that is away, unless a test gives it answers."""

    def download(uri: str, server: str, place: Path | None = None) -> str:
        assert place is not None
        (place / "files").mkdir()
        (place / "files" / "of").write_text(uri)
        return str(place / "files")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "_downloaded", download)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return TrackingConfig(uri=f"http://127.0.0.1:{free_ports(1)[0]}", experiment="sky")


def of(place: str) -> str:
    return (Path(place) / "of").read_text()


def test_while_the_registry_is_away_the_last_version_serves_on(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(server, "open_client", lambda uri, number=number: Registry(number))
            assert of(local_run(RUN, tracking)) == f"runs:/{number}/artifacts"
    said = Said()
    assert of(local_run(RUN, tracking, said)) == "runs:/2/artifacts"
    (line,) = said.lines
    assert "does not answer: models:/sky@champion is taken to be what it last was" in line
    assert not list(Path("data/models").rglob("*.partial"))


def test_what_has_not_been_used_for_a_month_is_deleted_when_another_is_fetched(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(number: int) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr(server, "open_client", lambda uri: Registry(number))
            return Path(local_run(RUN, tracking))

    def age(place: Path, days: int) -> None:
        os.utime(place, (then := time.time() - days * 86400, then))

    unused, resting, again = (ask(number) for number in (1, 2, 3))
    age(unused, 31), age(resting, 29), age(again, 31)
    killed, name = unused.with_name(".of.1.partial"), local.KEPT / "sky 1 of it"
    another = unused.with_name("of the user")
    for made in (killed, another):
        made.mkdir()
        age(made, 31)
    name.symlink_to(unused.resolve())
    assert ask(3) == again
    assert unused.exists(), "nothing has been fetched since"
    newest = ask(4)
    assert {*unused.parent.iterdir()} == {resting, again, newest, another}
    assert not name.is_symlink()
    age(newest, 31)
    assert of(local_run(RUN, tracking)) == "runs:/4/artifacts", "with the server away"
    ask(5)
    assert newest.exists(), "it was used"


def test_a_registry_that_is_away_is_not_taken_for_one_without_the_model(tracking: TrackingConfig) -> None:
    with pytest.raises(AwayError, match=f"does not say what {RUN} is: .*see that the MLflow server runs") as away:
        local_run(RUN, tracking)
    assert "\n" not in str(away.value)


@pytest.mark.parametrize("name", ["models:/sky@other", "models:/sky"])
def test_what_there_is_not_is_told(tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(server, "open_client", lambda uri: Registry(1))
    with pytest.raises(FewcastError, match=f"there is no model {name}: found "):
        local_run(name, tracking)
