"""What a training says of where it comes from, and of a disk that is full when it is done."""

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from core.config import TrackingConfig, TrainConfig
from core.errors import FewcastError
from core.meta import checkpoint
from core.training.train import TrainSummary
from tasks import records
from tasks.tracking import BEST, model
from tasks.tracking.journal import Delivered, Journal
from tasks.tracking.server import open_client
from tests.tasks.tracking.test_model import untrained

UNTOLD: Any = SimpleNamespace()  # a run in MLflow that must not be told anything


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db")


def test_a_fork_says_from_which_run(tmp_path: Path, tracking: TrackingConfig) -> None:
    def told(fork: str | Path, where: TrackingConfig = tracking) -> str:
        tags = records.origin(TrainConfig(fork=str(fork), run=str(tmp_path / "new")), where)
        return tags["fewcast.forked_from"].removeprefix(str(fork)).strip()

    assert records.origin(TrainConfig(), tracking) == {}
    journal = Journal(tmp_path / "run" / "tracking")
    journal.delivered = Delivered("f00d", "uri", 0)
    journal.close()
    trained = untrained(tmp_path / "run")
    assert told(tmp_path / "run") == "f00d"
    assert told(trained.path) == "f00d", "one checkpoint of it"
    assert told("runs:/beef/checkpoints/step_00000001") == "beef"

    copied = shutil.copytree(trained.path, tmp_path / "copy" / trained.path.name).parent
    assert told(copied) == "", "no one knows it"
    client = open_client(tracking.uri)
    training = client.create_run(client.create_experiment("sky")).info.run_id
    client.create_registered_model("sky")
    client.create_model_version("sky", "anywhere", training, tags={"checkpoint": trained.version})
    assert told(copied) == told("models:/sky/1") == training, "the champion, as it is kept here"


def test_of_a_fork_that_has_begun_or_whose_server_is_away_no_run_is_told(
    tmp_path: Path, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = TrackingConfig(uri="http://127.0.0.1:9")  # nobody listens
    trained = untrained(tmp_path / "run")
    for fork in ("models:/sky@champion", str(trained.path), str(tmp_path / "none")):
        assert records.origin(TrainConfig(fork=fork), away) == {"fewcast.forked_from": fork}
    assert records.origin(TrainConfig(fork="models:/sky@champion", run=str(tmp_path / "run")), tracking) == {}


def test_a_model_that_the_disk_has_no_room_for_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.Model, "load", lambda run: SimpleNamespace(version="1", step=6))
    monkeypatch.setattr(records, "card", lambda *_: "")
    monkeypatch.setattr(model, "save", save)
    summary = TrainSummary(str(tmp_path), 8, True, "its steps", 6, {"crps": 0.2})
    with pytest.raises(FewcastError, match=r"training is done and safe.*No space left on device; free some space"):
        records.tell_result(UNTOLD, TrainConfig(run=str(tmp_path)), summary)


def test_no_other_checkpoint_is_registered_for_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records.Model, "load", lambda run: SimpleNamespace(version="1", step=8))
    summary = TrainSummary("run", 8, True, "its steps", 6, {"crps": 0.2})
    with pytest.raises(FewcastError, match="of step 6, cannot be registered"):
        records.tell_result(UNTOLD, TrainConfig(run="run"), summary)


def test_the_best_checkpoint_so_far_is_told_and_all_that_are_good_at_the_end_and_where_a_fork_began(
    tmp_path: Path,
) -> None:
    said: list[Any] = []
    tracked: Any = SimpleNamespace(artifact=lambda path, under, digest: said.append(f"{under}/{path.name}"))
    tracked.tag = said.append
    config = TrainConfig(run=str(tmp_path))
    records.tell_checkpoints(tracked, config, ended=True)
    assert said == []
    meta = {"best_step": 6, "progress": {"forked_from": "elsewhere at step 40 (abc)"}}
    for step in (2, 4, 6, 8):
        checkpoint.save(tmp_path, step, {"a": torch.zeros(1)}, meta, keep_last=9)
    (tmp_path / "step_00000002" / "tensors.safetensors").write_bytes(b"torn")
    began = {"fewcast.forked_from_checkpoint": "elsewhere at step 40 (abc)"}
    best = ["checkpoints/step_00000006", {BEST: "checkpoints/step_00000006"}]
    records.tell_checkpoints(tracked, config, ended=False)
    assert said == [began, *best]
    said.clear()
    records.tell_checkpoints(tracked, config, ended=True)
    assert said == [began, "checkpoints/step_00000004", *best, "checkpoints/step_00000008"]


def test_the_data_of_a_run_are_the_episodes_that_it_has_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = pd.DataFrame({"split": ["train", "train", "test"], "frames_digest": ["a", "b", "c"]})
    pinned = SimpleNamespace(digest="d1", catalog=catalog, attributes={"archive": "sky.zarr"})
    monkeypatch.setattr(records, "episodes_of", lambda config: {"mine": pinned}[config.run])
    told = []
    tracked: Any = SimpleNamespace(dataset=lambda *said: told.append(said))
    records.tell_data(tracked, TrainConfig(run="mine", episodes="episodes.zarr"))
    assert told[0] == ("episodes", "d1", "episodes.zarr", '{"episodes": {"train": 2, "test": 1}}')
    assert told[1][::2] == ("archive", "sky.zarr")


@pytest.mark.parametrize(("phase", "learner"), [("meta", "abml"), ("pooled", "pooled")])
def test_a_model_is_told_as_the_learner_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, learner: str
) -> None:
    """A budget that ends in the pooled steps leaves a pooled model, whatever was asked for."""
    monkeypatch.setattr(model, "save", lambda *_: None)
    monkeypatch.setattr(records, "episodes_of", lambda config: {str(tmp_path): "its episodes"}[config.run])
    monkeypatch.setattr(records, "scored_on", lambda config, store: f"{config.network.width} {store}")
    untrained(tmp_path, phase)
    told: dict[str, str] = {}
    tracked: Any = SimpleNamespace(tag=told.update, model=lambda _, tags: told.update(tags))
    summary = TrainSummary(str(tmp_path), 1, True, "the budget", 1, {"crps": 0.2})
    records.tell_result(tracked, TrainConfig(run=str(tmp_path)), summary)
    assert told["learner"] == learner
    assert (told["validation_crps"], told["scored_on"]) == ("0.2", "4 its episodes"), "by the model's own config"
    assert told["mlflow.note.content"].startswith(f"# {learner} nowcaster")
