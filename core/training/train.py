"""Episodes to prior: a training run that goes on from its last good checkpoint, to the bit.

A step is a function of the state, the config and the step's number alone: episodes, noise and step size are all drawn
from the number. So a run that is killed anywhere and started again ends with the bits of one that was not.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from core.bayes.gaussian import Tree, branch, graft
from core.config import TrainConfig
from core.episodes.loader import EpisodeBatch, Loader
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checks import Examples
from core.meta.parallel import RankLostError, Ranks, joined, share
from core.meta.state import LearnerState
from core.meta.workers import Workers
from core.report import Report, Silent
from core.training.guards import GradientGuard, check_loss, check_prior, gradient_norm
from core.training.metrics import step_metrics, validation_metrics
from core.training.pace import Pace
from core.training.pooled_windows import episodes_of_phase, pooled
from core.training.run import Run, device_of, is_over_budget, reason_to_end
from core.training.schedule import fitted, fraction_that_fits, is_pretraining, learning_rate, total_steps
from core.training.step_images import step_images
from core.training.validation import validation_of

LOG_EVERY = 10
"""Steps between reports of the training metrics, which are means over them."""
_PHASES = ("pooled", "meta")


@dataclass(frozen=True)
class TrainSummary:
    """Where a run stands: `finished` unless it was stopped or its segment is over; `ended` says by what."""

    run: str
    step: int
    finished: bool
    ended: str
    best_step: int | None
    best: dict[str, float] = field(default_factory=dict)
    steps_per_second: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)  # that this call spent, by what (`core.training.pace`)


def train(
    config: TrainConfig,
    *,
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
    segment: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> TrainSummary:
    """Train until the steps or the budget are spent, validation no longer improves, or `stop()`; then checkpoint.

    A `segment` above 0 ends this call after so many steps. Started by torchrun, each rank takes its share of every
    meta-batch. Raises `FewcastError` for what the user can mend; the last checkpoint is then as good as before.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config.device)
    with joined(device) as ranks, checkpoint.owned(Path(config.run)) if ranks.leads else nullcontext():
        loop = _Loop(config, (report if ranks.leads else None) or Silent(), ranks, device, clock)
        with closing(loop):
            return loop.go(stop, segment)


def _batch_size(config: TrainConfig, phase: str) -> int:
    """Episodes of a step, of all ranks together."""
    return config.pretrain_batch if phase == "pooled" else config.meta_batch


class _Loop:
    """Steps, reports, validations and checkpoints, in this order; all ranks take the same branches."""

    def __init__(
        self, config: TrainConfig, report: Report, ranks: Ranks, device: torch.device, clock: Callable[[], float]
    ) -> None:
        self.config, self.report, self.ranks, self.device, self.clock = config, report, ranks, device, clock
        begun = clock()
        for phase in _PHASES if config.pretrain_steps else ("meta",):  # now, and not after hours of pooled steps
            share(_batch_size(config, phase), ranks)
        self.run = Run(config, report, device)
        ranks.require_same_start(self.run.fingerprint())
        self.before = dict(self.run.progress.seconds)
        self.pace = Pace(clock, self.run.progress.seconds, begun)
        self.validation = validation_of(self.run, ranks)
        self.workers = {
            phase: Workers([learner, *(deepcopy(learner) for _ in range(config.workers - 1))])
            for phase, learner in self.run.learners.items()
        }
        if self.run.progress.gradient and config.gradient == "auto":
            self._take_gradient(self.run.progress.gradient)
        self.guard = GradientGuard()

    def go(self, stop: Callable[[], bool], segment: int) -> TrainSummary:
        progress, first = self.run.progress, self.run.progress.step
        if self.config.fit_budget and not progress.fitted and not first:
            progress.fitted = self._fraction()
        self.pace.lap("start")
        try:
            return self._go(stop, segment)
        except RankLostError:
            self._save_alone()
            raise

    def _go(self, stop: Callable[[], bool], segment: int) -> TrainSummary:
        progress, first = self.run.progress, self.run.progress.step
        if progress.validation_due:
            self._validate()
            self._save()
        ended = self._ended(self._over_budget())
        if not ended:
            with closing(self._batches(first)) as batches:
                for batch in batches:
                    self.pace.lap("data")
                    stopped, over_budget = self._step(batch, stop(), self._over_budget())
                    if self._validates_at(progress.step) or over_budget:
                        self._validate()
                        ended = self._ended(over_budget)
                        self._save()
                    if ended:
                        break
                    if stopped or (segment and progress.step - first >= segment):
                        self._save()
                        if stopped:
                            self.report.message(f"stopped at step {progress.step}, which has a checkpoint")
                        return self._summary("a request to stop" if stopped else "the end of its segment", False)
        self._save()
        if shortfall := self.run.shortfall:
            self.report.message(shortfall)
        return self._summary(ended, True)

    def close(self) -> None:
        for workers in self.workers.values():
            workers.close()

    def _step(self, batch: EpisodeBatch, stop: bool, over_budget: bool) -> tuple[bool, bool]:
        """One meta-step of all ranks; returns whether any rank wants to stop, and whether any is over the budget."""
        run = self.run
        if run.progress.phase == "pooled" and not is_pretraining(run.plan, run.progress.step):
            run.start_meta()
            self.guard = GradientGuard()
        step = run.progress.step
        gradient, metrics, size = self._differentiate(run.progress.phase, run.state, batch, step)
        mine = graft("metric", {name: value.double() for name, value in metrics.items()})
        mine["flags"] = torch.tensor([stop, over_budget], dtype=torch.float64)
        summed = self.ranks.sum(mine)
        means = {name: float(value) / size for name, value in branch(summed, "metric").items()}
        check_loss(means["loss"], step)
        gradient = {name: leaf / size for name, leaf in self.ranks.sum_gradient(gradient).items()}
        means["gradient_norm"] = gradient_norm(gradient)
        means["learning_rate"] = learning_rate(run.plan, step)
        state = run.learner.apply(run.state, gradient, learning_rate=means["learning_rate"])
        self.guard.check(means["gradient_norm"], step)
        run.advance(state)
        self.pace.count(means)
        if run.progress.step % LOG_EVERY == 0 or run.progress.step == total_steps(self.run.plan):
            self._report_training(self.pace.read())
            self.pace.lap("reports")
        stopped, over = summed["flags"].tolist()
        return stopped > 0, over > 0

    def _differentiate(self, phase: str, state: LearnerState, batch: EpisodeBatch, step: int) -> tuple[Tree, Tree, int]:
        """This rank's gradient and metrics, summed over its episodes, and how many there are in all ranks."""
        config, learner = self.config, self.run.learners[phase]
        is_pooled = learner.config.learner == "pooled"
        if is_pooled:
            batch = pooled(batch, config.pretrain_windows, seed=config.seed, step=step, groups=config.workers)
        batch = batch.to(self.device)
        if not is_pooled and config.gradient == "auto" and not self.run.progress.gradient:
            self._pin_gradient(batch)
        gradient, metrics = self.workers[phase].gradient(state, batch, seed=config.seed)
        return gradient, metrics, len(batch.ids) * self.ranks.size

    def _fraction(self) -> float:
        """How much of the steps the budget has room for, by one trial step of either phase, the same on all ranks."""
        seconds = {}
        for phase in _PHASES:
            seconds[phase] = torch.zeros((), dtype=torch.float64)
            if phase in self.run.learners:
                batch, state = self._loader(phase).batch(0), self._first_exact_state(phase)
                for _ in range(2):  # the first is slower
                    begun = self.clock()
                    self._differentiate(phase, state, batch, 0)
                    seconds[phase].fill_(self.clock() - begun)
        means = {phase: float(total) / self.ranks.size for phase, total in self.ranks.sum(seconds).items()}
        fraction = fraction_that_fits(self.run.plan, means["pooled"], means["meta"])
        if fraction < 1:
            plan = fitted(self.run.plan, fraction)
            self.report.message(
                f"{self.config.budget_minutes:g} minutes have room for {fraction:.0%} of the configured steps: "
                f"{plan.pretrain_steps} pooled steps and {plan.steps} meta-steps are taken"
            )
        return fraction

    def _pin_gradient(self, batch: EpisodeBatch) -> None:
        """Keep to the mode that `auto` takes first, in all ranks and in those that go on from the checkpoints.

        Asked before any first-order steps are over, since what is free then is another matter after each resume.
        """
        support, query = (Examples(w.x[0], w.y[0], w.mask[0]) for w in (batch.support, batch.query))
        mode = self.run.learners["meta"].mode(self._first_exact_state("meta"), support, query)
        needs = torch.tensor(float(mode == "checkpointed"))
        mode = "checkpointed" if self.ranks.sum({"checkpointed": needs})["checkpointed"] > 0 else mode
        self.run.progress.gradient = mode
        self._take_gradient(mode)

    def _take_gradient(self, mode: str) -> None:
        self.workers["meta"] = self.workers["meta"].with_gradient(mode)

    def _first_exact_state(self, phase: str) -> LearnerState:
        return replace(self.run.learners[phase].init_state(), step=self.config.outer.first_order_steps)

    def _validates_at(self, step: int) -> bool:
        return step % self.config.validate_every == 0 or step in (
            self.run.plan.pretrain_steps,
            total_steps(self.run.plan),
        )

    def _validate(self) -> None:
        run, step = self.run, self.run.progress.step
        check_prior(run.state.theta, self.config, step)
        run.progress.validation_due = True  # unless it comes to an end
        validated = self.validation.run(self.workers[run.progress.phase], run.judged)
        calibrations = {name: found.to_json() for name, found in validated.calibrations.items()}
        run.judge(validated.values, calibrations, validated.steps)
        self.pace.lap("validation")
        self.report.metrics(validation_metrics(validated.values, run.progress), step)
        self.pace.lap("reports")
        if self.ranks.leads:
            workers = self.workers[run.progress.phase]
            for name, figure in step_images(self.validation, run.store, workers, run.judged, step):
                self.report.figure(name, figure, step)
            self.pace.lap("pictures")

    def _save(self) -> None:
        if self.ranks.leads:
            self.run.save()
            self.pace.lap("checkpoints")

    def _save_alone(self) -> None:
        """The leader writes; where it is the one that is gone, the first of the others to hold the run does."""
        if self.ranks.leads:
            self.run.save()
            return
        try:
            with checkpoint.owned(self.run.path, wait_seconds=5):
                if self.run.progress.step > max(checkpoint.steps(self.run.path), default=-1):
                    self.run.save()  # and not over that of a rank that came a step further before it noticed
        except FewcastError:
            pass  # the leader lives and holds it

    def _over_budget(self) -> bool:
        return is_over_budget(self.config, self.run.progress)

    def _ended(self, over_budget: bool) -> str:
        return reason_to_end(self.run.plan, self.run.progress, over_budget)

    def _batches(self, first: int) -> Generator[EpisodeBatch]:
        total = total_steps(self.run.plan)
        boundary = min(max(self.run.plan.pretrain_steps, first), total)
        for phase, begin, end in (("pooled", first, boundary), ("meta", boundary, total)):
            if begin < end:
                yield from self._loader(phase).stream(begin, end)

    def _loader(self, phase: str) -> Loader:
        ranks, config = self.ranks, self.config
        size = _batch_size(config, phase)
        loader = Loader(self.run.store, split="train", batch_size=size, seed=config.seed, rank=ranks.rank,
                        world_size=ranks.size, augment=config.augment, extra=config.network.extra_inputs)  # fmt: skip
        if "pooled" in self.run.learners:
            loader.episodes = episodes_of_phase(self.run.store, config.pretrain_share, phase)
        return loader

    def _report_training(self, means: dict[str, float]) -> None:
        theta, progress = self.run.state.theta, self.run.progress
        self.report.metrics(step_metrics(means, theta, self.run.spec.lead_minutes), progress.step)
        best = f", best CRPS {progress.best['crps']:.4f}" if progress.best else ""
        self.report.progress(
            progress.step, total_steps(self.run.plan), f"{progress.phase} loss {means['loss']:.4f}{best}"
        )

    def _summary(self, ended: str, finished: bool) -> TrainSummary:
        run, progress = self.run, self.run.progress
        spent = {what: seconds - self.before.get(what, 0.0) for what, seconds in progress.seconds.items()}
        return TrainSummary(
            str(run.path), progress.step, finished, ended, progress.best_step, progress.best,
            self.pace.steps_per_second, spent,
        )  # fmt: skip
