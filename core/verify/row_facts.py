"""What a scorecard says of its learned rows beside their scores: how large the networks are, and what training took."""

from collections.abc import Mapping, Sequence

import pandas as pd

from core.episodes.store import EpisodeStore
from core.model import Model
from core.training.pace import WORK, trained
from core.verify.rows import LearnedRow, open_model
from core.verify.scorecard import FACTS
from core.verify.units import Units


def with_facts(windows: pd.DataFrame, rows: Sequence[LearnedRow]) -> pd.DataFrame:
    """Window statistics with the facts of each row, sums over its runs; 0 where nothing was trained."""
    of_rows = {row.name: [_facts(open_model(run, row.which)) for run in row.runs] for row in rows}
    names = windows["learner"].unique()
    sums = [[sum(column) for column in zip(*of_rows.get(name, [(0, 0, 0.0)]), strict=True)] for name in names]
    return windows.join(pd.DataFrame(sums, index=names, columns=FACTS), on="learner")


def _facts(model: Model) -> tuple[int, int, float]:
    return _weights(model), model.step, trained(model.seconds)


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
