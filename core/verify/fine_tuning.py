"""Plain fine-tuning at its best: step size, number of steps and calibration, all found on validation.

A pooled run has learned neither, and a step size that suits one likelihood wrecks another; the comparison with learned
adaptation is fair only if this one is tuned with as much care.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from core.calibration import Calibration, coverage_ladder
from core.config import EvaluateConfig
from core.episodes.loader import Loader
from core.episodes.store import EpisodeStore
from core.fanout import fan_out
from core.meta.checks import DivergedError, Examples
from core.meta.state import Posterior
from core.model import Model
from core.report import Report
from core.training.validation import spread_evenly
from core.verify.mixture import Mixture
from core.verify.rows import LearnedRow, models_of, one_torch_thread, open_model
from core.verify.scoring import episode_of
from core.verify.units import Units

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
STEPS = (1, 2, 4, 6)
_EPISODES = 24

Choice = tuple[float, int]  # step size, number of steps


def choose_fine_tuning(
    config: EvaluateConfig, store: EpisodeStore, rows: Sequence[LearnedRow], report: Report, client: Any = None
) -> tuple[list[LearnedRow], list[str]]:
    """The rows, those of fine-tuning with what validation chose for their network, and notes that say what it was.

    Its control and its curves are tuned as the learner is, which comes before them; a curve of steps keeps its own.
    Without validation episodes they keep their run's step size; those whose every step size diverges are left out.
    """
    found: dict[tuple[tuple[str, ...], str], LearnedRow | None] = {}
    chosen, notes = [], []
    for row in rows:
        network = row.runs, row.which
        if row.fine_tuned and network not in found:
            found[network], note = _tuned(config, store, row, report, client)
            notes += note
        tuned = found[network] if row.fine_tuned else row
        if tuned is not None:
            steps = row.steps if row.kind == "step_curve" else tuned.steps
            chosen.append(replace(row, steps=steps, rate=tuned.rate, calibration=tuned.calibration))
    return chosen, notes


def _tuned(
    config: EvaluateConfig, store: EpisodeStore, row: LearnedRow, report: Report, client: Any
) -> tuple[LearnedRow | None, list[str]]:
    """The row with what validation chose, or None where every choice diverged; and a note."""
    ids = validation_ids(store, row)
    if not ids:
        return row, []
    few = spread_evenly(ids, _EPISODES)
    steps = tuple(sorted({*STEPS, row.steps}))
    scores = crps_of_choices(config.episodes, row, few, steps, report, client)
    if not scores:
        return None, [f"{row.name}: every step size diverged on validation, so it is left out."]
    rate, count = best = min(scores, key=scores.__getitem__)
    tuned = replace(row, rate=rate, steps=count)
    note = (
        f"{tuned.name}: step size {rate:g}, {count} steps, of least CRPS on {len(few)} validation episodes among "
        f"step sizes of {RATES[0]:g} to {RATES[-1]:g} and {', '.join(map(str, steps))} steps"
    )
    note += ", at the edge of what was tried." if at_the_edge(best, steps) else "."
    if models_of(row)[0].config.calibrate:
        new_times = [i for i in ids if store.catalog.loc[i, "holdout"] != "region"] or ids
        tuned = replace(tuned, calibration=fit_calibration(config.episodes, tuned, new_times, report, client))
        note += f" Its std is calibrated on {len(new_times)} of them, as the run's own."
    return tuned, [note]


def validation_ids(store: EpisodeStore, row: LearnedRow) -> list[int]:
    """The validation episodes that the row's run was itself validated on."""
    return spread_evenly(store.ids("validation").tolist(), open_model(row.runs[0]).config.validation_episodes)


def at_the_edge(choice: Choice, steps: Sequence[int]) -> bool:
    """Whether a better one may lie beyond what was tried; fewer steps than one there are not."""
    rate, count = choice
    return rate in (RATES[0], RATES[-1]) or count == steps[-1]


def crps_of_choices(
    url: str, row: LearnedRow, ids: Sequence[int], steps: Sequence[int], report: Report, client: Any = None
) -> dict[Choice, float]:
    """CRPS over the query windows of some episodes by (step size, steps), of all that are finite on every episode."""
    with one_torch_thread():
        note = f"episodes to choose the step size of {row.name} on"
        parts = fan_out(partial(_try, url, row, tuple(steps)), ids, client=client, report=report, note=note)
    total = {choice: np.sum([part.get(choice, (np.nan, 0.0)) for part in parts], axis=0) for choice in parts[0]}
    return {choice: float(crps / pixels) for choice, (crps, pixels) in total.items() if np.isfinite(crps) and pixels}


def _try(url: str, row: LearnedRow, steps: Sequence[int], episode: int) -> dict[Choice, tuple[float, float]]:
    """Summed CRPS and number of pixels of an episode for each choice whose trajectory got there."""
    found = {}
    for rate in RATES:
        [model] = models_of(replace(row, rate=rate))
        support, query = _episode(url, model, episode)
        assert query.mask is not None
        try:
            for count, posterior in trajectory(model, support, steps):
                crps = _forecast(model, posterior, query).crps(query.y)
                found[rate, count] = (float(torch.where(query.mask, crps, 0).double().sum()), float(query.mask.sum()))
        except DivergedError:
            continue
    return found


def trajectory(model: Model, support: Examples, steps: Sequence[int]) -> Iterator[tuple[int, Posterior]]:
    """The posteriors after each of some increasing numbers of plain gradient steps, at the cost of the last alone.

    A pooled network has neither weight noise nor a KL that pulls back to where it started, so a step does not depend
    on how many came before it.
    """
    state, done = model.state, 0
    for count in steps:
        posterior = model.learner.posterior(state, support, steps=count - done)
        yield count, posterior
        moved = {n: posterior.mean[n.partition("/")[2]] for n in state.theta if n.startswith(("mean/", "point/"))}
        state, done = replace(state, theta=state.theta | moved), count


def fit_calibration(url: str, row: LearnedRow, ids: Sequence[int], report: Report, client: Any = None) -> Calibration:
    """The calibration of the row's own forecasts of some episodes, as `core.training.validation` fits a run's."""
    with one_torch_thread():
        note = f"episodes to calibrate {row.name} on"
        ladders = fan_out(partial(_ladder, url, row), ids, client=client, report=report, note=note)
    return Calibration.fit(np.sum(ladders, axis=0))


def _ladder(url: str, row: LearnedRow, episode: int) -> np.ndarray:
    [model] = models_of(row)
    support, query = _episode(url, model, episode)
    assert query.mask is not None
    return coverage_ladder(_forecast(model, model.adapt(support, row.steps), query), query.y, query.mask)


def _forecast(model: Model, posterior: Posterior, query: Examples) -> Mixture:
    """Not yet calibrated."""
    return Mixture(*model.learner.predict(posterior, query.x, 1, torch.Generator()))


def _episode(url: str, model: Model, episode: int) -> tuple[Examples, Examples]:
    """Support and query in the model's own units."""
    store = EpisodeStore.open(url)
    batch = Loader(store, split="validation", extra=model.extra_inputs).load([episode])
    units, frames = Units.between(model.spec, store), store.spec.input_frames
    support, query = (units.windows(episode_of(part, 0), frames) for part in (batch.support, batch.query))
    return Examples(support.x, support.y, support.mask), Examples(query.x, query.y, query.mask)
