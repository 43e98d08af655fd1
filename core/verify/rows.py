"""The rows of a scorecard: who forecasts an episode's query windows, under which name."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.episodes.loader import Windows
from core.episodes.store import StoreSpec
from core.meta.checks import Examples
from core.model import Model
from core.verify.baselines import DressedPersistence, last_frame, persistence
from core.verify.ensemble import Prediction

PERSISTENCE, DRESSED = "persistence", "dressed persistence"


@dataclass(frozen=True)
class LearnedRow:
    """A run at a number of inner steps; the posterior starts from the run's prior, so 0 steps is no adaptation."""

    name: str
    run: str
    steps: int


def learned_rows(model: Model, run: str) -> list[LearnedRow]:
    """A run without and with adaptation; for a pooled learner adaptation is fine-tuning."""
    learner, steps = model.config.learner, model.inner_steps
    if learner == "pooled":
        steps = steps or model.config.inner.steps
        return [LearnedRow("pooled", run, 0), LearnedRow(f"pooled, fine-tuned {steps}", run, steps)]
    return [LearnedRow(f"{learner}, M = {m}", run, m) for m in dict.fromkeys((0, steps))]


def episode_predictions(
    support: Windows,
    query: Windows,
    spec: StoreSpec,
    dressed_errors: Float[Tensor, "Q O"],
    rows: list[LearnedRow],
    members: int,
    seed: int,
) -> Iterator[tuple[str, Prediction]]:
    """Name and forecast of each row for one episode, whose support and query have axes (N, ...).

    One forecast at a time, since members are what fills the memory. The draw is a function of `seed` alone, and all
    learned rows share it.
    """
    last = last_frame(query.x, len(spec.channels), spec.target_frames, *query.y.shape[-2:])
    yield PERSISTENCE, persistence(last)
    yield DRESSED, DressedPersistence(dressed_errors).predict(last)
    for row in rows:
        model = open_model(row.run)
        posterior = model.adapt(Examples(support.x, support.y, support.mask), steps=row.steps, seed=seed)
        with torch.no_grad():
            yield row.name, model.predict(posterior, query.x, members if posterior.log_std else 1, seed)


_LOCAL = threading.local()


def open_model(run: str) -> Model:
    """The run's model, loaded once a thread: a network whose parameters are swapped in cannot serve two threads."""
    loaded = _LOCAL.__dict__.setdefault("models", {})
    if run not in loaded:
        loaded[run] = Model.load(run)
    return loaded[run]


def episode_seed(seed: int, episode: int) -> int:
    """A seed of an episode's own, the same wherever and in whatever order episodes are scored."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])
