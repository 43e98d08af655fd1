"""Scorecards on a remote place: whole or not there, found again from another machine."""

import os

import boto3
import pandas as pd
import pytest
import s3fs

from core.config import EvaluateConfig
from core.verify import folder
from core.verify.domain import StepsSettings
from core.verify.evaluate import evaluate
from core.verify.folder import deliver, finished, folder_of, withdraw
from tests.core import loopback

INPUTS = {"digest": "abc"}


@pytest.fixture(scope="module")
def bucket():
    """A real S3 server on loopback; its address and keys are in the environment, as in production."""
    before = {name: os.environ.get(name) for name in (*loopback.CREDENTIALS, "AWS_ENDPOINT_URL")}
    with loopback.seaweed() as endpoint:
        os.environ.update(loopback.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.session.Session().client("s3").create_bucket(Bucket="scorecards")
        yield "s3://scorecards"
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def remote(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_COPIES", tmp_path / "here")
    return f"{bucket}/{tmp_path.name}/scorecard"


def _table():
    rows = [("crps", lead, 0.5, 0.4, 0.6) for lead in (0, 30)] + [
        ("crps_skill", lead, 0.1, 0.05, 0.2) for lead in (0, 30)
    ]
    return pd.DataFrame(rows, columns=["metric", "lead_time", "value", "low", "high"]).assign(
        learner="a",
        kind="learner",
        reference=["", "", "b", "b"],
        split="test",
        holdout="both",
        channel="ir",
        windows=3,
        blocks=2,
    )


def _write(url):
    withdraw(url)
    place = folder_of(url)
    _table().to_parquet(place / "scorecard.parquet", index=False)
    (place / "scorecard.md").write_text("# Scorecard")
    (place / "crps.png").write_bytes(b"picture")


def test_a_remote_scorecard_is_whole_last_and_comes_back_on_another_machine(remote, monkeypatch, tmp_path):
    _write(remote)
    assert finished(remote, INPUTS) is None
    deliver(remote, INPUTS)
    monkeypatch.setattr(folder, "_COPIES", tmp_path / "another machine")
    found = finished(remote, INPUTS)
    assert found is not None
    assert found.markdown == "# Scorecard"
    assert [path.read_bytes() for path in found.figures] == [b"picture"]
    assert found.folder.is_relative_to(tmp_path / "another machine")
    pd.testing.assert_frame_equal(found.table, _table())


def test_other_inputs_or_a_withdrawn_one_are_not_found(remote):
    _write(remote)
    deliver(remote, INPUTS)
    assert finished(remote, {"digest": "other"}) is None
    withdraw(remote)
    assert finished(remote, INPUTS) is None
    assert not [path for path in s3fs.S3FileSystem().find(remote) if "." in path]


def test_what_an_older_scorecard_drew_is_taken_away_and_what_is_not_its_own_stays(tmp_path):
    url = str(tmp_path / "scorecard")
    _write(url)
    kept = [tmp_path / "scorecard" / name for name in ("notes.txt", "baselines/steps-test/20240601.parquet")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for name in ("curves.png", "moving-lively-window.png", "cuts.parquet"):
        (tmp_path / "scorecard" / name).write_bytes(b"old")
    deliver(url, INPUTS)
    withdraw(url)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_local_scorecard_lies_where_it_is_asked_for(tmp_path):
    for url in (str(tmp_path / "plain"), f"file://{tmp_path}/by-url"):
        _write(url)
        deliver(url, INPUTS)
        found = finished(url, INPUTS)
        assert found is not None
        assert str(found.folder) == url.removeprefix("file://")
        (found.folder / "inputs.json").write_text("{ torn")
        assert finished(url, INPUTS) is None


def test_an_evaluation_goes_to_a_bucket_and_is_skipped_from_another_machine(remote, chain, monkeypatch, tmp_path):
    monkeypatch.setattr("core.verify.domain_rows.CANDIDATES", (StepsSettings(),))
    config = EvaluateConfig(
        run=chain.run, episodes=chain.store, archive=chain.archive, scorecard=remote, members=2, bootstrap_samples=100,
        pretrained=False, shuffled=False, baselines=["optical_flow"],
    )  # fmt: skip
    first = evaluate(config)
    keys = {path.removeprefix(remote.removeprefix("s3://")) for path in s3fs.S3FileSystem().find(remote)}
    assert {"/inputs.json", "/scorecard.html", "/scorecard.md", "/scorecard.parquet", "/crps.png"} <= keys
    assert any(key.startswith("/baselines/optical_flow-test-") for key in keys)
    monkeypatch.setattr(folder, "_COPIES", tmp_path / "another machine")
    again = evaluate(config)
    assert (first.skipped, again.skipped) == (False, True)
    pd.testing.assert_frame_equal(first.table, again.table)
