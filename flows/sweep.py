"""A grid over config keys: one training and one validation scorecard for each point, side by side in MLflow."""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import WithJsonSchema

from core.config import PipelineConfig, change
from core.errors import FewcastError
from core.verify.folder import Scorecard
from core.verify.scorecard import defined_metric
from flows.evaluate import evaluate
from flows.train import train
from tasks.tracking import TrackedRun

# A form refuses what is plainly none; `points` checks the rest.
Axis = Annotated[str, WithJsonSchema({"type": "string", "pattern": r"^train\.[a-z0-9_.]+=."})]


@dataclass(frozen=True)
class Point:
    """One point of a grid, and the config that it stands for."""

    settings: tuple[str, ...]
    config: PipelineConfig


@dataclass(frozen=True)
class Row:
    """What became of a point: CRPS as its run forecasts and at M = 0, or why it has none."""

    settings: Sequence[str]
    crps: float = float("inf")
    prior_crps: float = float("inf")
    failure: str = ""


@flow(name="sweep", flow_run_name="sweep {config.name}")
def sweep(config: PipelineConfig, grid: list[Axis]) -> str:
    """Train and validate every combination of some settings; returns a table, best first.

    A point that cannot be trained or scored does not keep the others from it: its reason stands in the table, and
    `FewcastError` ends the sweep.

    Args:
        config: What all points share; its episodes must be there.
        grid: Keys with their values, say `train.learning_rate=0.001,0.003`.
    """
    folder, todo, rows = folder_of(config, grid), points(config, grid), list[Row]()
    with TrackedRun(folder / "tracking", config.tracking, "sweep " + " x ".join(grid), config.train) as tracked:
        for point in todo:
            try:
                train(point.config.train, point.config.tracking)
                scorecard = evaluate(point.config.evaluate, point.config.tracking)
                rows.append(Row(point.settings, *validation_scores(scorecard, point.config.evaluate.run)))
            except FewcastError as error:
                rows.append(Row(point.settings, failure=str(error)))
            except Exception as error:  # out of memory, say: the other points may have room
                rows.append(Row(point.settings, failure=f"{type(error).__name__}: {error}"))
        table = describe(rows)
        create_markdown_artifact(table, key="sweep")
        # By its content, since a tracked file of one name is kept once.
        kept = folder / f"table-{_digest(table)}.md"
        kept.write_text(table)
        tracked.artifact(kept)
        if failures := [row.failure for row in rows if row.failure]:
            raise FewcastError(
                f"{len(failures)} of {len(rows)} points of the sweep have no score",
                found=failures[0],
                mend=f"see {kept}, then run the sweep again: the others are not trained again",
            )
    return table


def folder_of(config: PipelineConfig, grid: Sequence[str]) -> Path:
    """Where a sweep keeps its table and its record for MLflow: one place for each grid and what its points share."""
    return Path(place_of(config)) / _digest(" ".join(grid))


def place_of(config: PipelineConfig) -> str:
    """Where the points lie that share this config: under another they are other runs, with other scores."""
    shared = {stage: getattr(config, stage).model_dump(mode="json") for stage in ("train", "evaluate")}
    return f"{config.root}/sweep/{_digest(json.dumps(shared, sort_keys=True))}"


def points(config: PipelineConfig, grid: Sequence[str]) -> list[Point]:
    """Every combination of the grid as a config with a run, a scorecard and a place in MLflow of its own.

    Raises `FewcastError` for a key that is not of training, or a value out of bounds, before anything has begun.
    """
    axes = []
    for axis in grid:
        key, _, values = axis.partition("=")
        if not key.startswith("train.") or not values or key in ("train.run", "train.episodes"):
            raise FewcastError(
                "a sweep goes over keys of training", found=repr(axis), mend="write, say, train.learning_rate=1e-3,3e-3"
            )
        axes.append([f"{key}={value}" for value in _values(values)])
    found = []
    for settings in product(*axes):
        shown = tuple(setting.replace('"', "") for setting in settings)
        place = f"{place_of(config)}/" + "+".join(s.removeprefix("train.").replace("/", "_") for s in shown)
        own = [f"train.run={_toml(f'{place}/run')}", f"evaluate.run={_toml(f'{place}/run')}",
               f"evaluate.scorecard={_toml(f'{place}/scorecard')}", 'evaluate.split="validation"',
               f"tracking.parent={_toml(f'{folder_of(config, grid)}/tracking')}"]  # fmt: skip
        found.append(Point(shown, change(config, [*settings, *own])))
    return found


def _values(text: str) -> list[str]:
    """The values of an axis, each in TOML; they may be given in it, or as bare words."""
    try:
        values = tomllib.loads(f"values = [{text}]")["values"]
    except tomllib.TOMLDecodeError:
        values = text.split(",")
    return [_toml(value) for value in values]


def _toml(value: Any) -> str:
    """Text, a number or a list, in which JSON is TOML."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def validation_scores(scorecard: Scorecard, run: str) -> tuple[float, float]:
    """CRPS of a run's forecasts, adapted and not, over all leads and all held-out windows."""
    table = defined_metric(scorecard.table, "crps")
    own = (table["kind"] == "learner") & (table["run"] == run) & (table["checkpoint"] == "best")
    whole = table[own & (table["lead_time"] == 0)]
    for column in ("channel", "holdout"):  # "all" stands only where there are several
        whole = whole[whole[column] == ("all" if (whole[column] == "all").any() else whole[column].iloc[0])]
    scores = whole.sort_values("inner_steps", kind="stable")["value"].astype(float)
    return scores.iloc[-1], scores.iloc[0]


def describe(rows: Sequence[Row]) -> str:
    """A Markdown table, best first and those without a score last."""
    lines = ["| settings | CRPS | CRPS at M = 0 |", "|---|---|---|"]
    for row in sorted(rows, key=lambda row: row.crps):
        cells = f"{row.crps:.4f} | {row.prior_crps:.4f}" if not row.failure else f"{_in_a_cell(row.failure)} | -"
        lines.append(f"| {', '.join(row.settings)} | {cells} |")
    return "\n".join(lines) + "\n"


def _in_a_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
