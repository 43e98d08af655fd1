"""A scorecard in a real MLflow store: tables to read back, step images by lead time, plots, and all of it once."""

import dataclasses
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from core.config import EvaluateConfig, TrackingConfig
from core.report import Silent
from core.verify.folder import Scorecard, deliver, finished, withdraw
from tasks import evaluate
from tasks.evaluate import remember
from tasks.tracking import delivery, read_delivered
from tasks.tracking.server import open_client

INPUTS = {"digest": "abc"}
LEADS, INPUT_FRAMES = (30, 60), 3


def shade(frame: int) -> tuple[int, int, int]:
    return (40 * frame, 0, 255)


@pytest.fixture
def scorecard(tmp_path: Path) -> Scorecard:
    """Just made: a table with an interval that there is not, cuts, a plot, and an animation of five frames."""
    url = str(tmp_path / "scorecard")
    withdraw(url)
    folder = Path(url)
    rng = np.random.default_rng(0)
    rows = [
        {"metric": metric, "learner": learner, "reference": "", "split": "test", "holdout": "both", "lead_time": lead,
         "channel": "ir", "kind": "learner", "value": rng.normal(), "low": np.nan, "high": rng.normal(), "windows": 3,
         "blocks": 2}
        for metric in ("crps", "rmse") for learner in ("abml, M = 0", "STEPS") for lead in (0, *LEADS)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "scorecard.parquet", index=False)
    pd.DataFrame({"cut": ["season"], "value": ["JJA"], "crps": [0.25]}).to_parquet(folder / "cuts.parquet", index=False)
    (folder / "scorecard.md").write_text("# Scorecard")
    Image.new("RGB", (40, 30)).save(folder / "crps.png")
    frames = [Image.new("RGB", (40, 30), shade(frame)) for frame in range(INPUT_FRAMES + len(LEADS))]
    frames[0].save(folder / "moving-lively-window.png", save_all=True, append_images=frames[1:])
    deliver(url, INPUTS)
    found = finished(url, INPUTS)
    assert found is not None
    return dataclasses.replace(found, skipped=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real one, in which each test has an experiment of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def tracking(store: str, tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(uri=store, experiment=tmp_path.name)


@pytest.fixture
def client(tracking: TrackingConfig) -> MlflowClient:
    return open_client(tracking.uri)


def config_of(scorecard: Scorecard) -> EvaluateConfig:
    return EvaluateConfig(run=str(scorecard.folder.parent / "run"), scorecard=scorecard.url)


def told(scorecard: Scorecard, client: MlflowClient, tracking: TrackingConfig) -> dict[str, pd.DataFrame]:
    """Check all that MLflow has of the one evaluation that there is, and return its tables."""
    mlflow.set_tracking_uri(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment).experiment_id
    [run] = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.info.run_id == read_delivered(scorecard.folder / "tracking").run_id
    assert run.data.metrics["rmse/test_both/STEPS"] == pytest.approx(
        scorecard.table.query("metric == 'rmse' and learner == 'STEPS' and lead_time == 60")["value"].item()
    )
    files = {kind: [f.path for f in client.list_artifacts(run.info.run_id, kind)] for kind in ("figures", "images")}
    assert files["figures"] == ["figures/crps.png", "figures/moving-lively-window.png"]
    shown = sorted(path for path in files["images"] if path.endswith(".png"))
    assert [path.split("+timestamp")[0] for path in shown] == [f"images/lively-window+step+{lead}" for lead in LEADS]
    for place, path in enumerate(shown):
        with Image.open(client.download_artifacts(run.info.run_id, path)) as picture:
            assert picture.getpixel((20, 15)) == shade(INPUT_FRAMES + place)
    return {name: client.load_table(experiment, f"{name}.json") for name in ("scorecard", "cuts")}


def test_mlflow_has_the_tables_the_sample_forecasts_and_the_plots(
    scorecard: Scorecard, tracking: TrackingConfig, client: MlflowClient
) -> None:
    remember(scorecard, config_of(scorecard), tracking)
    tables = told(scorecard, client, tracking)
    pd.testing.assert_frame_equal(tables["scorecard"], scorecard.table, check_exact=False, atol=1e-9)
    pd.testing.assert_frame_equal(tables["cuts"], pd.read_parquet(scorecard.folder / "cuts.parquet"))
    remember(dataclasses.replace(scorecard, skipped=True), config_of(scorecard), tracking)
    assert len(told(scorecard, client, tracking)["scorecard"]) == len(scorecard.table)


def test_the_evaluation_of_a_registered_model_is_inside_the_run_that_trained_it(
    scorecard: Scorecard, tracking: TrackingConfig, client: MlflowClient
) -> None:
    experiment = client.create_experiment("training")
    training = client.create_run(experiment).info.run_id
    client.create_registered_model("sky")
    version = client.create_model_version("sky", "anywhere", training).version
    client.set_registered_model_alias("sky", "champion", version)
    for run in ("models:/sky@champion", f"models:/sky/{version}"):
        remember(scorecard, config_of(scorecard).model_copy(update={"run": run}), tracking)
        made = client.get_run(read_delivered(scorecard.folder / "tracking").run_id)
        assert made.data.tags["mlflow.parentRunId"] == training
        deliver(scorecard.url, {"digest": "again"})
    assert evaluate.training_run("models:/sky@nobody", tracking) == evaluate.training_run("runs/mine", tracking) == ""


def test_every_run_may_be_a_registered_model(tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "local_run", lambda run, *_: run.replace("models:/sky", "data/models/sky"))
    asked = EvaluateConfig(
        run="models:/sky@champion", more_runs=["models:/sky/3", "runs/maml"], deep_ensemble=["models:/sky/4", "runs/E1"]
    )
    found, names = evaluate.with_local_runs(asked, tracking, Silent())
    assert (found.run, found.more_runs) == ("data/models/sky@champion", ["data/models/sky/3", "runs/maml"])
    assert found.deep_ensemble == ["data/models/sky/4", "runs/E1"]
    assert names["data/models/sky/3"] == "models:/sky/3"


@pytest.mark.parametrize("last", ["log_table", "log_image", "log_artifact"])
def test_what_a_server_that_went_away_has_not_heard_is_told_later_and_once(
    scorecard: Scorecard, tracking: TrackingConfig, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """It goes away just after it took something, before that could be noted."""

    class Leaving:
        def __init__(self, uri: str) -> None:
            self._client, self._gone = open_client(uri), False

        def __getattr__(self, name: str):
            if self._gone:
                raise ConnectionError("refused")
            call = getattr(self._client, name)

            def took(*args, **kwargs):
                call(*args, **kwargs)
                self._gone = True
                raise ConnectionError("reset")

            return took if name == last else call

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "open_client", Leaving)
        remember(scorecard, config_of(scorecard), tracking)
    remember(dataclasses.replace(scorecard, skipped=True), config_of(scorecard), tracking)
    assert len(told(scorecard, client, tracking)["scorecard"]) == len(scorecard.table)


def test_a_scorecard_made_anew_is_another_run(
    scorecard: Scorecard, tracking: TrackingConfig, client: MlflowClient
) -> None:
    remember(scorecard, config_of(scorecard), tracking)
    first = read_delivered(scorecard.folder / "tracking").run_id
    deliver(scorecard.url, {"digest": "of other inputs"})  # and killed before it was told
    remember(dataclasses.replace(scorecard, skipped=True), config_of(scorecard), tracking)
    assert read_delivered(scorecard.folder / "tracking").run_id not in ("", first)
