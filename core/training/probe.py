"""A few minutes of trial steps that suggest a step size and a KL weight, before hours are spent on them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from core.bayes.gaussian import Tree
from core.config import TrainConfig
from core.episodes.loader import EpisodeBatch, Loader
from core.errors import FewcastError
from core.meta.checks import DivergedError
from core.meta.learner import Learner
from core.meta.parallel import Ranks
from core.meta.state import LearnerState
from core.meta.workers import Workers
from core.model import build_learner
from core.report import Report, Silent
from core.training.pooled_windows import pooled
from core.training.run import Run, device_of
from core.training.validation import validation_of

_LOWEST, _HIGHEST = 1e-5, 0.3
_SMOOTHING, _LOST = 0.85, 1.5  # a loss that rose by this many times what it had fallen ends the ramp
_KL_WEIGHTS = (1.0, 0.1, 0.01)
_TOLERANCE = 0.005  # of the CRPS: so much worse still counts as good, and the exact ELBO is preferred


@dataclass(frozen=True)
class Suggestion:
    """What the probe saw and advises."""

    learning_rate: float
    kl_weight: float  # of both loops
    ramp: tuple[tuple[float, float], ...]  # (step size, smoothed change of the loss)
    weights: tuple[tuple[float, float], ...]  # (kl_weight, adapted CRPS on validation)

    def lines(self) -> list[str]:
        """For a person: the settings to use, and why."""
        weight = f"kl_weight = {self.kl_weight:g}"
        tried = ", ".join(f"{weight:g}: {crps:.4f}" for weight, crps in self.weights)
        return [
            f"train.learning_rate = {self.learning_rate:.2g}  (a third of where the loss fell most on a ramp "
            f"from {self.ramp[0][0]:.0e} to {self.ramp[-1][0]:.1e})",
            *(
                [f"train.{weight}  (validation CRPS at {tried})", f"train.inner.{weight}  (tried with it)"]
                if tried
                else [f"train.{weight}  (unused)"]
            ),
        ]


def probe(
    config: TrainConfig,
    *,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
    steps: int = 60,
) -> Suggestion:
    """Ramp the step size over `steps` meta-steps, then compare KL weights over a third as many each.

    It starts from the run's newest checkpoint if there is one, else from fresh weights, and writes nothing. Raises
    `FewcastError` where even the smallest step size diverges, or every KL weight does, or on `stop()`.
    """
    report = report or Silent()
    run = Run(config, report, device_of(config.device))
    if run.progress.phase == "pooled":
        run.start_meta()
    trial = _Trial(run, config, report, stop, total=steps + len(_KL_WEIGHTS) * max(steps // 3, 1))
    start = run.judged
    ramp = trial.ramp(run.learners["meta"], start, steps)
    best = min(ramp, key=lambda point: point[1])[0]
    rate = 10 ** (round(10 * math.log10(best / 3)) / 10)
    if config.learner != "abml":
        return Suggestion(rate, config.kl_weight, tuple(ramp), ())
    weights = trial.weights(start, rate, max(steps // 3, 1))
    return Suggestion(rate, best_weight(weights), tuple(ramp), tuple(weights))


def best_weight(weights: Sequence[tuple[float, float]]) -> float:
    """The largest of those (KL weight, CRPS) whose CRPS is as good as the least; `FewcastError` where none has one."""
    scored = [(weight, crps) for weight, crps in weights if math.isfinite(crps)]
    if not scored:
        raise FewcastError(
            "training diverges at every KL weight that was tried",
            found=", ".join(f"{weight:g}" for weight, _ in weights),
            mend="lower train.inner.rate or set train.inner.clip, and probe again",
        )
    good = min(crps for _, crps in scored) * (1 + _TOLERANCE)
    return max(weight for weight, crps in scored if crps <= good)


class _Trial:
    """Trial steps from one state, on the same episodes each time."""

    def __init__(self, run: Run, config: TrainConfig, report: Report, stop: Callable[[], bool], total: int) -> None:
        self.run, self.config, self.report, self.stop, self.total, self.done = run, config, report, stop, total, 0
        self.loader = Loader(
            run.store, split="train", batch_size=config.meta_batch, seed=config.seed, augment=config.augment,
            extra=config.network.extra_inputs,
        )  # fmt: skip

    def ramp(self, learner: Learner, start: LearnerState, steps: int) -> list[tuple[float, float]]:
        """(step size, smoothed change of the loss) up to where the loss is lost.

        A change is against the loss of the first state on the same episodes with the same noise, since episodes
        differ by more than a few steps bring.
        """
        points: list[tuple[float, float]] = []
        state, average, lowest = start, 0.0, 0.0
        for step in range(steps):
            rate = _LOWEST * (_HIGHEST / _LOWEST) ** (step / max(steps - 1, 1))
            try:
                before = self._differentiate(learner, replace(start, step=state.step), step)[1]
                state, loss = self._step(learner, state, step, rate)
            except DivergedError:
                break
            average = _SMOOTHING * average + (1 - _SMOOTHING) * (loss - before)
            smooth = average / (1 - _SMOOTHING ** (step + 1))
            if not math.isfinite(smooth):
                break
            points.append((rate, smooth))
            lowest = min(lowest, smooth)
            if smooth - lowest > _LOST * max(-lowest, 0.05 * abs(before)):
                break
        if not points:
            raise FewcastError(
                "the first meta-step already diverges",
                found=f"train.inner.rate = {self.config.inner.rate:g}",
                mend="lower train.inner.rate or set train.inner.clip, and probe again",
            )
        return points

    def weights(self, start: LearnerState, rate: float, steps: int) -> list[tuple[float, float]]:
        """(KL weight, adapted CRPS) after as many steps each."""
        found = []
        validation = validation_of(self.run, Ranks())
        for weight in _KL_WEIGHTS:
            inner = self.config.inner.model_copy(update={"kl_weight": weight})
            config = self.config.model_copy(update={"kl_weight": weight, "inner": inner})
            learner, state = build_learner(config, self.run.spec, self.run.device), start
            try:
                for step in range(steps):
                    state, _ = self._step(learner, state, step, rate)
                found.append((weight, validation.run(Workers([learner]), state).values["crps"]))
            except DivergedError:
                found.append((weight, math.inf))
        return found

    def _step(self, learner: Learner, state: LearnerState, step: int, rate: float) -> tuple[LearnerState, float]:
        if self.stop():
            raise FewcastError("the probe was stopped", found=f"{self.done} of {self.total} trial steps",
                               mend="run it again for its advice")  # fmt: skip
        gradient, loss = self._differentiate(learner, state, step)
        state = learner.apply(state, gradient, learning_rate=rate)
        self.done += 1
        self.report.progress(self.done, self.total, f"step size {rate:.1e}, loss {loss:.4f}")
        return state, loss

    def _differentiate(self, learner: Learner, state: LearnerState, step: int) -> tuple[Tree, float]:
        batch: EpisodeBatch = self.loader.batch(step)
        if learner.config.learner == "pooled":  # of the windows that training takes
            windows, workers = self.config.pretrain_windows, self.config.workers
            batch = pooled(batch, windows, seed=self.config.seed, step=step, groups=workers)
        batch = batch.to(self.run.device)
        gradient, metrics = learner.gradient(state, batch, seed=self.config.seed)
        count = len(batch.ids)
        return {n: leaf / count for n, leaf in gradient.items()}, float(torch.as_tensor(metrics["loss"])) / count
