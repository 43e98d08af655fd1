"""The command line: what it refuses and how it says so. What it does is in test_end_to_end.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.config import ForecastConfig
from flows import cli

TINY = Path(__file__).with_name("tiny.toml")


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one line on stderr and nothing on stdout."""
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith("fewcast: ")
    return line


def test_an_unknown_preset_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(capsys, "pipeline", "--preset", "atlantis")
    assert "'atlantis'" in line
    assert "demo" in line
    refuse(capsys, "pipeline", "--preset", "../presets/demo")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("train.stepz=3", "train.stepz"),
        ("train.steps=0", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("ingest.channels=[]", "ingest.channels"),
        ("train.steps", "key=value"),
        ("name.first=x", "name"),
        ("root=3", "root: 3 (Input should be a valid string)"),
        ("ingest.times.end=2024-05-01T00:00:00Z", "ingest.times"),
        ("train.learner=alchemy", "train.learner"),
        ("evaluate.thresholds=[{name='cold',value=230.0},{name='cold',value=220.0}]", "several events are called cold"),
        ("forecast.thresholds=[{name='cold',value=230.0},{name='cold',value=220.0}]", "forecast.thresholds"),
    ],
)
def test_a_bad_key_or_value_is_named(capsys: pytest.CaptureFixture[str], change: str, named: str) -> None:
    assert named in refuse(capsys, "train", "--config", str(TINY), "--set", change)


def test_a_file_that_is_no_configuration_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "page.toml").write_text("<html>")
    assert "page.toml" in refuse(capsys, "ingest", "--config", str(tmp_path / "page.toml"))
    assert "none.toml" in refuse(capsys, "ingest", "--config", str(tmp_path / "none.toml"))


def test_an_evaluation_needs_a_preset_or_a_model_and_episodes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--model URI" in refuse(capsys, "evaluate", "--model", "models:/demo@candidate")
    options = cli._parser().parse_args(
        ["evaluate", "--model", "models:/demo@candidate", "--episodes", "s3://b/e.zarr", "--set", "tracking.uri=x"]
    )
    alone = cli.read_evaluation(options)
    assert alone is not None
    assert (alone.evaluate.run, alone.evaluate.episodes) == ("models:/demo@candidate", "s3://b/e.zarr")
    assert alone.evaluate.scorecard == "data/scorecards/models-demo-candidate-on-s3-b-e.zarr"
    assert (alone.tracking.uri, alone.tracking.experiment) == ("x", "evaluations")
    options = cli._parser().parse_args(["evaluate", "--config", str(TINY), "--model", "elsewhere"])
    assert cli.read_evaluation(options) is None
    assert cli.read_config(options).evaluate.run == "elsewhere"


def test_another_model_or_other_episodes_leave_the_scorecard_of_the_preset_alone() -> None:
    def scorecard(*more: str) -> str:
        read = cli.read_config(cli._parser().parse_args(["evaluate", "--preset", "demo", *more]))
        return read.evaluate.scorecard

    own = scorecard()
    assert own == "data/demo/scorecard"
    assert scorecard("--model", "models:/a@b") == f"{own}/models-a-b-on-data-demo-episodes.zarr"
    assert scorecard("--episodes", "s3://b/e.zarr") == f"{own}/data-demo-run-on-s3-b-e.zarr"
    assert scorecard("--model", "a", "--set", "root=x") == "x/scorecard/a-on-x-episodes.zarr"
    assert scorecard("--model", "a", "--set", "evaluate.scorecard=s3://b/mine") == "s3://b/mine"


def test_a_command_line_of_another_shape_shows_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["fly"], ["train"], ["train", "--preset", "demo", "--config", "x"]):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 2
        assert "usage: fewcast" in capsys.readouterr().err


def test_a_store_of_episodes_is_looked_at_under_its_own_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments, wanted in (
        (["--help"], "inspect or validate a store"),
        (["episodes", "--help"], "`fewcast episodes inspect URL`"),
        (["episodes", "inspect", "--help"], "usage: fewcast episodes inspect"),
        (["episodes", "validate", "--help"], "usage: fewcast episodes validate [-h] [--rebuild] URL"),
    ):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 0
        assert wanted in capsys.readouterr().out
    for action in ("inspect", "validate"):
        assert "no episode store at" in refuse(capsys, "episodes", action, str(tmp_path / "none.zarr"))


def test_config_lists_every_key_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    everything = capsys.readouterr().out
    assert "train.inner.steps  int  >= 0, <= 100  default: 3\n    Gradient steps M." in everything
    assert "episodes.split.train[].start" in everything
    assert cli.main(["config", "evaluate.members"]) == 0
    assert capsys.readouterr().out.startswith("evaluate.members  int  >= 2")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m flows.cli config | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


def test_a_start_is_given_with_seconds_or_without() -> None:
    for given, read in (
        ("2024-06-01T03:00Z", "2024-06-01T03:00:00Z"),
        ("2024-06-01 03:00", "2024-06-01T03:00:00Z"),
        ("2024-06-01T12:00:00+09:00", "2024-06-01T03:00:00Z"),
        ("", ""),
    ):
        options = cli._parser().parse_args(["nowcast", "--preset", "korea", "--set", f"forecast.init_time={given}"])
        assert cli.read_config(options).forecast.init_time == read


def test_a_region_given_by_hand_is_that_of_the_forecast() -> None:
    def read(*more: str) -> ForecastConfig:
        return cli.read_config(cli._parser().parse_args(["nowcast", "--preset", "korea", *more])).forecast

    by_hand = read("--region=-1.5,31,133,44")
    assert (by_hand.region, by_hand.run) == ("-1.5,31,133,44", "models:/korea@champion")
    assert by_hand.output == "data/korea/forecasts/-1.5,31,133,44", "not in place of the operational ones"
    assert read("--region", "Southeast Asia").output == "data/korea/forecasts/southeast-asia"
    assert read("--region", "japan", "--set", "forecast.output=x").output == "x"
    assert read().output == "data/korea/forecasts"
