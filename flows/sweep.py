"""A grid over config keys: one training and one validation scorecard for each point, side by side in MLflow."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from core.config import PipelineConfig, change
from core.errors import FewcastError
from core.verify.folder import Scorecard
from flows.evaluate import evaluate
from flows.train import train
from tasks.tracking import TrackedRun

# Rows of the scorecard that stand beside the learner.
_BESIDE = ("persistence", "climatology", "pooled start", "shuffled", "flow", "STEPS")


@dataclass(frozen=True)
class Point:
    """One point of a grid, and the config that it stands for."""

    settings: tuple[str, ...]
    config: PipelineConfig


@flow(name="sweep", flow_run_name="sweep {config.name}")
def sweep(config: PipelineConfig, grid: list[str]) -> str:
    """Train and validate every combination of some settings; returns a table, best first.

    Args:
        config: What all points share; its episodes must be there.
        grid: Keys with their values, say `train.learning_rate=0.001,0.003`.
    """
    folder = Path(config.root) / "sweep"
    rows = []
    with TrackedRun(folder / "tracking", config.tracking, "sweep " + " x ".join(grid), config.train):
        for point in points(config, grid):
            train(point.config.train, point.config.tracking)
            scores = validation_scores(evaluate(point.config.evaluate, point.config.tracking))
            rows.append((min(scores.values()), point.settings, scores))
    table = describe(rows)
    create_markdown_artifact(table, key="sweep")
    return table


def points(config: PipelineConfig, grid: Sequence[str]) -> Iterator[Point]:
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
        axes.append([f"{key}={value}" for value in values.split(",")])
    found = []
    for settings in product(*axes):
        place = f"{config.root}/sweep/" + "+".join(s.removeprefix("train.").replace("/", "_") for s in settings)
        own = [f'train.run="{place}/run"', f'evaluate.run="{place}/run"', f'evaluate.scorecard="{place}/scorecard"',
               'evaluate.split="validation"', f'tracking.parent="{config.root}/sweep/tracking"']  # fmt: skip
        found.append(Point(settings, change(config, [*settings, *own])))
    yield from found


def validation_scores(scorecard: Scorecard) -> dict[str, float]:
    """CRPS of each learned row over all leads and all held-out windows."""
    table = scorecard.table
    whole = table[(table["metric"] == "crps") & (table["lead_time"] == 0)]
    for column in ("channel", "holdout"):  # "all" stands only where there are several
        whole = whole[whole[column] == ("all" if (whole[column] == "all").any() else whole[column].iloc[0])]
    scores = whole.set_index("learner")["value"].astype(float).to_dict()
    return {str(name): value for name, value in scores.items() if not any(word in str(name) for word in _BESIDE)}


def describe(rows: Sequence[tuple[float, Sequence[str], dict[str, float]]]) -> str:
    """A Markdown table, best first."""
    names = list(dict.fromkeys(name for _, _, scores in rows for name in scores))
    lines = ["| settings | " + " | ".join(f"CRPS of {name}" for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for _, settings, scores in sorted(rows, key=lambda row: row[0]):
        cells = [f"{scores[name]:.4f}" if name in scores else "-" for name in names]
        lines.append("| " + ", ".join(settings) + " | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
