"""What a scorecard says of its rows beside their scores: what each is, how it adapts, and what its training took."""

from collections.abc import Mapping, Sequence

import pandas as pd

from core.episodes.store import EpisodeStore
from core.model import Model
from core.training.pace import WORK, trained
from core.verify.baselines import CLIMATOLOGY
from core.verify.optimum import OPTIMUM
from core.verify.rows import LearnedRow, models_of, open_model
from core.verify.scorecard import FACTS
from core.verify.units import Units


def with_facts(
    windows: pd.DataFrame, rows: Sequence[LearnedRow], store: EpisodeStore, names: Mapping[str, str]
) -> pd.DataFrame:
    """Window statistics with the FACTS of each row, of which those on training are sums over its runs.

    What does not adapt has 0 support windows and inner steps, what was not trained no run, and 0 for all else.
    """
    learned = {row.name: _facts(row, store, names) for row in rows}
    there = store.spec.support_windows
    plain = {
        name: ("optimum" if name == OPTIMUM else "baseline", "", "", there if name == CLIMATOLOGY else 0, 0, 0, 0, 0.0)
        for name in windows["learner"].unique()
    }
    facts = pd.DataFrame.from_dict(plain | learned, orient="index", columns=FACTS)
    return windows.join(facts, on="learner")


def _facts(row: LearnedRow, store: EpisodeStore, names: Mapping[str, str]) -> tuple[str | int | float, ...]:
    models = models_of(row)
    runs = ", ".join(names.get(run, run) for run in row.runs)
    windows = 0 if not row.steps else store.spec.support_windows if row.windows < 0 else row.windows
    return (
        row.kind, runs, row.which, windows, row.steps if windows else 0,
        sum(map(_weights, models)), sum(model.step for model in models), sum(trained(m.seconds) for m in models),
    )  # fmt: skip


def run_notes(rows: Sequence[LearnedRow], store: EpisodeStore, names: Mapping[str, str]) -> list[str]:
    """A line on each run: its size, the steps and seconds that made the checkpoint that forecasts, and its data."""
    notes = []
    for run, which in dict.fromkeys((run, row.which) for row in rows for run in row.runs):
        model = open_model(run, which)
        same = "same episodes" if model.episodes_digest == store.digest else "OTHER EPISODES"
        if not Units.between(model.spec, store).same:
            same += " whose mean and std are others (its values are mapped to and fro)"
        name = names.get(run, run) + (" (pooled start)" if which == "pretrained" else "")
        size = f"{model.config.learner}, {_weights(model):,} weights"
        notes.append(f"Run {name}: {size}, {_training(model)}, {same}, version {model.version}.")
    return notes


def _weights(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.learner.network.parameters())


def _training(model: Model) -> str:
    spent = ", ".join(f"{what} {model.seconds[what]:,.0f}" for what in WORK if what in model.seconds)
    took = f"in {trained(model.seconds):,.0f} s of training ({spent})" if spent else "in a time that it does not record"
    fork = f", on top of those of {model.forked_from}" if model.forked_from else ""
    return f"{model.step:,} steps {took}{fork}"
