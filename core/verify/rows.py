"""The rows of a scorecard: who forecasts an episode's query windows, under which name."""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from core.calibration import Calibration
from core.config import EvaluateConfig, SimulatorConfig
from core.config.train import ExtraInput
from core.episodes.extra import in_order
from core.episodes.loader import Windows
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta.checks import Examples
from core.meta.learner import Learner
from core.model import Model
from core.report import Report
from core.verify.baselines import (
    CLIMATOLOGY,
    DRESSED,
    PERSISTENCE,
    DressedPersistence,
    climatology,
    last_frame,
    persistence,
)
from core.verify.ensemble import Prediction
from core.verify.events import Event
from core.verify.kinds import MAIN, Kind
from core.verify.mixture import Mixture
from core.verify.units import Units


@dataclass(frozen=True)
class LearnedRow:
    """A run, or several whose forecasts are pooled, adapted by `steps` inner steps on some support.

    The posterior starts from the run's prior, so 0 steps, or an empty support, is no adaptation. `windows` of the
    support are used, the newest ones; -1: all. `rate` above 0 replaces the run's own step sizes and `calibration` its
    own calibration: fine-tuning has both found for it (`core.verify.fine_tuning`).
    """

    label: str  # of the run or the runs, whatever is done with them
    runs: tuple[str, ...]
    kind: Kind = "learner"
    which: str = "best"
    pooled: bool = False  # a plain network, whose adaptation is fine-tuning
    steps: int = 0
    windows: int = -1
    rate: float = 0.0
    calibration: Calibration | None = None
    versions: tuple[str, ...] = ()  # of the runs' checkpoints, one a run; empty: whichever are there

    @property
    def name(self) -> str:
        """What the row is called, wherever it is shown."""
        if self.kind == "ensemble":
            return self.label
        pooled = f"{self.label}, fine-tuned {self.steps}" if self.steps else self.label
        adapted = pooled if self.pooled else f"{self.label}, M = {self.steps}"
        return adapted + {
            "shuffled": ", shuffled support", "support_curve": f", N_S = {self.windows}", "step_curve": " (curve)",
        }.get(self.kind, "")  # fmt: skip

    @property
    def main(self) -> bool:
        """Whether the scorecard is about it, and it is no control and no point of a curve."""
        return self.kind in MAIN

    @property
    def fine_tuned(self) -> bool:
        return self.pooled and self.steps > 0


@dataclass(frozen=True)
class Plan:
    """All that scoring an episode needs beside the episode: small, and the same in every process."""

    rows: tuple[LearnedRow, ...]
    dressing: np.ndarray  # (Q, L*C)
    climatology: bool
    members: int
    seed: int
    events: tuple[Event, ...] = ()
    simulator: SimulatorConfig | None = None  # of the linear process, where the optimum is a row


def learned_rows(config: EvaluateConfig, names: Mapping[str, str] | None = None) -> list[LearnedRow]:
    """The rows of the config's runs: each run without and with adaptation, then controls, curves and the ensemble.

    Runs of one learner are told apart by their paths, or by what `names` calls them. Raises FewcastError where two rows
    would bear one name.
    """
    rows, called = list[LearnedRow](), names or {}
    runs = [config.run, *config.more_runs]
    models = {run: open_model(run) for run in runs}
    for run, model in models.items():
        learner, steps = model.config.learner, adaptation_steps(model)
        alike = [called.get(other, other) for other, beside in models.items() if beside.config.learner == learner]
        name = learner if len(alike) == 1 else f"{learner} ({short_path(called.get(run, run), alike)})"
        own = LearnedRow(name, (run,), pooled=learner == "pooled")
        rows += [replace(own, steps=m) for m in dict.fromkeys((0, steps))]
        if run == config.run:
            adapted = rows[-1]
            if config.pretrained and not own.pooled and _has_pretrained(run):
                start = replace(own, label="pooled start", which="pretrained", pooled=True)
                rows += [replace(start, steps=m) for m in dict.fromkeys((0, steps))]
            if config.shuffled and steps:
                rows.append(replace(adapted, kind="shuffled"))
            rows += [replace(adapted, kind="support_curve", windows=n) for n in dict.fromkeys(config.support_curve)]
            rows += [replace(own, kind="step_curve", steps=m) for m in dict.fromkeys(config.step_curve)]
    if config.deep_ensemble:
        label = f"deep ensemble of {len(config.deep_ensemble)}"
        rows.append(LearnedRow(label, tuple(config.deep_ensemble), "ensemble"))
    if twice := [name for name, count in Counter(row.name for row in rows).items() if count > 1]:
        raise FewcastError("two rows of the scorecard would bear one name", found=", ".join(twice),
                           mend="give each run once in evaluate.run and evaluate.more_runs")  # fmt: skip
    return [replace(row, versions=tuple(model.version for model in models_of(row))) for row in rows]


def models_of(row: LearnedRow) -> list[Model]:
    """The models of the row's runs, of the versions that it names, with its step size."""
    versions = row.versions or ("",) * len(row.runs)
    return [open_model(run, row.which, row.rate, version) for run, version in zip(row.runs, versions, strict=True)]


def short_path(run: str, runs: Sequence[str]) -> str:
    """The last parts of a run's path, as many as it takes to tell it from the others."""
    paths = [Path(other).parts for other in runs]
    lengths = range(1, max(map(len, paths)) + 1)
    enough = next((n for n in lengths if len({path[-n:] for path in paths}) == len(paths)), lengths[-1])
    return "/".join(Path(run).parts[-enough:])


def adapted_row(rows: Sequence[LearnedRow]) -> LearnedRow:
    """Of the first row's run the main row with the most inner steps: what the scorecard is about."""
    own = [row for row in rows if row.main and (row.runs, row.which) == (rows[0].runs, rows[0].which)]
    return max(own, key=lambda row: row.steps)


def adaptation_steps(model: Model) -> int:
    """Inner steps of the adapted row: as trained, and for a pooled run what its config would have a learner take."""
    return model.inner_steps or model.config.inner.steps


def episode_predictions(
    support: Windows,
    query: Windows,
    other: Windows | None,
    store: EpisodeStore,
    plan: Plan,
    seed: int,
    baselines: bool = True,
) -> Iterator[tuple[str, Prediction]]:
    """Name and forecast of each row for one episode, whose windows have axes (N, ...).

    `other` is the support of another context, for the shuffled rows. One forecast at a time, since members are what
    fills the memory. The draw is a function of `seed` alone, and all learned rows share it.
    """
    spec = store.spec
    if baselines:
        last = last_frame(query.only().x, len(spec.channels), spec.target_frames, *query.y.shape[-2:])
        yield PERSISTENCE, persistence(last)
        yield DRESSED, DressedPersistence(torch.from_numpy(plan.dressing)).predict(last)
    if baselines and plan.climatology and len(support.y):
        yield CLIMATOLOGY, climatology(support.y, support.mask, query.y.shape, len(spec.channels))
    for row in plan.rows:
        used = other if row.kind == "shuffled" and other is not None else support
        yield row.name, _forecast(row, used, query, store, plan.members, seed)


def extra_inputs(rows: Sequence[LearnedRow]) -> tuple[ExtraInput, ...]:
    """What the runs of some rows see beside the frames, all together."""
    return in_order(name for row in rows for model in models_of(row) for name in model.extra_inputs)


def _forecast(
    row: LearnedRow, support: Windows, query: Windows, store: EpisodeStore, members: int, seed: int
) -> Mixture:
    part = slice(None) if row.windows < 0 else slice(max(len(support.x) - row.windows, 0), None)
    steps = row.steps if len(support.x[part]) else 0
    share = -(-members // len(row.runs))
    mixtures = []
    for model in models_of(row):
        if row.calibration and steps:  # it is that of adapted forecasts
            model = replace(model, calibrations={"adapted": row.calibration})
        units, frames = Units.between(model.spec, store), store.spec.input_frames
        seen, asked = (units.windows(windows.only(model.extra_inputs), frames) for windows in (support, query))
        posterior = model.adapt(Examples(seen.x[part], seen.y[part], seen.mask[part]), steps=steps, seed=seed)
        with torch.no_grad():
            mixture = model.predict(posterior, asked.x, share if posterior.log_std else 1, seed)
        mixtures.append(units.forecast(mixture))
    return mixtures[0] if len(mixtures) == 1 else pooled_mixture(mixtures)


def pooled_mixture(mixtures: Sequence[Mixture]) -> Mixture:
    """The equal mixture of mixtures with equally many components: a deep ensemble."""
    if len({len(mixture.means) for mixture in mixtures}) > 1:
        raise ValueError("an ensemble needs runs with equally many components each: all pooled, or none")
    stds = [mixture.std.expand(mixture.means.shape) for mixture in mixtures]
    return Mixture(torch.cat([mixture.means for mixture in mixtures]), torch.cat(stds))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Operators on the calling thread alone: a small network gains more from episodes side by side than from those."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_LOCAL = threading.local()


def open_model(
    run: str, which: str = "best", rate: float = 0.0, version: str = "", report: Report | None = None
) -> Model:
    """The run's model, loaded once a thread: a network whose parameters are swapped in cannot serve two threads.

    Threads outlive an evaluation, so a loaded model of another `version` than asked for (empty: any) is dropped.
    Raises FewcastError where the run itself has another by now.
    """
    loaded: dict[tuple[str, str, float], Model] = _LOCAL.__dict__.setdefault("models", {})
    model = loaded.get((run, which, rate))
    if model is None or version not in ("", model.version):
        if rate:
            model = open_model(run, which, version=version)
            config = model.config.model_copy(update={"inner": model.config.inner.model_copy(update={"rate": rate})})
            learner = Learner(model.learner.network, model.learner.likelihood, config)
            model = replace(model, learner=learner, config=config)
        else:
            model = Model.load(run, "pretrained" if which == "pretrained" else "best", report=report)
        if version not in ("", model.version):
            raise FewcastError(
                f"the run {run} has changed while it is scored",
                found=f"version {model.version}, where it was {version}",
                mend="evaluate it again, best once it is trained to its end",
            )
        loaded[run, which, rate] = model
    return model


def forget_models() -> None:
    """Let this thread load anew: a run may have been trained on since."""
    _LOCAL.__dict__.pop("models", None)


def _has_pretrained(run: str) -> bool:
    try:
        open_model(run, "pretrained")
    except FewcastError:
        return False
    return True


def episode_seed(seed: int, episode: int) -> int:
    """A seed of an episode's own, the same wherever and in whatever order episodes are scored."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])
