"""Episodes to prior: a training run that goes on from its last good checkpoint, to the bit.

A step is a function of the state, the config and the step's number alone: episodes, noise and step size are all drawn
from the number. So a run that is killed anywhere and started again ends with the bits of one that was not.
"""

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.bayes.gaussian import branch, graft
from core.config import TrainConfig
from core.episodes.loader import EpisodeBatch, Loader
from core.errors import FewcastError
from core.guards import GradientGuard, check_loss, check_prior, gradient_norm, prior_log_std
from core.meta import checkpoint
from core.meta.checks import Examples
from core.meta.parallel import RankLostError, Ranks, Workers, join, share
from core.pooling import pooled
from core.report import Report, Silent
from core.run import Run
from core.schedule import is_pretraining, learning_rate, total_steps
from core.validation import Validation, spread_evenly

LOG_EVERY = 10
"""Steps between reports of the training metrics, which are means over them."""


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
    device = choose_device(config)
    ranks = join(device)
    try:
        with checkpoint.owned(Path(config.run)) if ranks.leads else nullcontext():
            loop = _Loop(config, (report if ranks.leads else None) or Silent(), ranks, device, clock)
            with closing(loop):
                return loop.go(stop, segment)
    finally:
        ranks.leave()


class _Loop:
    """Steps, reports, validations and checkpoints, in this order; all ranks take the same branches."""

    def __init__(
        self, config: TrainConfig, report: Report, ranks: Ranks, device: torch.device, clock: Callable[[], float]
    ) -> None:
        self.config, self.report, self.ranks, self.device, self.clock = config, report, ranks, device, clock
        self.total = total_steps(config)
        self.run = Run(config, report, device)
        self.validation = validation_of(self.run, ranks)
        self.workers = {
            phase: Workers([learner, *(deepcopy(learner) for _ in range(config.workers - 1))])
            for phase, learner in self.run.learners.items()
        }
        if self.run.progress.gradient and config.gradient == "auto":
            self.workers["meta"].configure(gradient=self.run.progress.gradient)
        self.guard = GradientGuard()
        self.pace = _Pace(clock)

    def go(self, stop: Callable[[], bool], segment: int) -> TrainSummary:
        progress = self.run.progress
        before, start, first = progress.elapsed_seconds, self.clock(), progress.step
        ended = self._ended(over_budget=before >= self.config.budget_minutes * 60)
        if not ended:
            with closing(self._batches(first)) as batches:
                for batch in batches:
                    over_budget = before + self.clock() - start >= self.config.budget_minutes * 60
                    stopped, over_budget = self._step(batch, stop(), over_budget)
                    progress.elapsed_seconds = before + self.clock() - start
                    if self._validates_at(progress.step) or over_budget:
                        self._validate()
                        ended = self._ended(over_budget)
                        self._save()
                    if ended:
                        break
                    if stopped or (segment and progress.step - first >= segment):
                        self._save()
                        return self._summary("a request to stop" if stopped else "the end of its segment", False)
        self._save()
        return self._summary(ended, True)

    def close(self) -> None:
        for workers in self.workers.values():
            workers.close()

    def _step(self, batch: EpisodeBatch, stop: bool, over_budget: bool) -> tuple[bool, bool]:
        """One meta-step of all ranks; returns whether any rank wants to stop, and whether any is over the budget."""
        run, config = self.run, self.config
        if run.progress.phase == "pooled" and not is_pretraining(config, run.progress.step):
            run.start_meta()
            self.guard = GradientGuard()
        step = run.progress.step
        if run.learner.config.learner == "pooled":
            batch = pooled(batch, config.pretrain_windows, seed=config.seed, step=step, groups=config.workers)
        size = len(batch.ids) * self.ranks.size
        workers = self.workers[run.progress.phase]
        if config.gradient == "auto" and run.progress.phase == "meta" and not run.progress.gradient:
            self._pin_gradient(batch)
        gradient, metrics = workers.gradient(run.state, batch.to(self.device), seed=config.seed)
        mine = graft("gradient", gradient) | graft("metric", {n: v.double() for n, v in metrics.items()})
        mine["flags"] = torch.tensor([stop, over_budget], dtype=torch.float64, device=self.device)
        try:
            summed = self.ranks.sum(mine)
        except RankLostError:
            self._save_alone()
            raise
        gradient = {name: leaf / size for name, leaf in branch(summed, "gradient").items()}
        means = {name: float(value) / size for name, value in branch(summed, "metric").items()}
        check_loss(means["loss"], step)
        means["gradient_norm"] = gradient_norm(gradient)
        means["learning_rate"] = learning_rate(config, step)
        state = run.learner.apply(run.state, gradient, learning_rate=means["learning_rate"])
        self.guard.check(means["gradient_norm"], step)
        run.advance(state)
        self.pace.count(means)
        if run.progress.step % LOG_EVERY == 0 or run.progress.step == self.total:
            self._report_training(self.pace.read())
        stopped, over = summed["flags"].tolist()
        return stopped > 0, over > 0

    def _pin_gradient(self, batch: EpisodeBatch) -> None:
        """Keep to the mode that `auto` takes first, in this process and in those that go on from its checkpoints."""
        run = self.run
        support, query = (Examples(w.x[0], w.y[0], w.mask[0]) for w in (batch.support, batch.query))
        mode = run.learner.mode(run.state, support, query)
        if mode != "first_order":  # else exact gradients are yet to come
            run.progress.gradient = mode
            self.workers["meta"].configure(gradient=mode)

    def _validates_at(self, step: int) -> bool:
        return step % self.config.validate_every == 0 or step in (self.config.pretrain_steps, self.total)

    def _validate(self) -> None:
        run, step = self.run, self.run.progress.step
        check_prior(run.state.theta, self.config, step)
        values = self.validation.run(self.workers[run.progress.phase], run.judged)
        run.judge(values)
        self.report.metrics({f"validation/{name}": value for name, value in values.items()}, step)
        if self.ranks.leads:
            figure = self.validation.figure(self.workers[run.progress.phase], run.judged)
            self.report.figure("validation", figure, step)
        self.pace.pause()

    def _save(self) -> None:
        if self.ranks.leads:
            self.run.save()
            self.pace.pause()

    def _save_alone(self) -> None:
        """The leader writes; where it is the one that is gone, the first of the others to hold the run does."""
        if self.ranks.leads:
            self.run.save()
            return
        try:
            with checkpoint.owned(self.run.path, wait_seconds=5):
                if self.run.progress.step not in checkpoint.steps(self.run.path):
                    self.run.save()
        except FewcastError:
            pass  # the leader lives and holds it

    def _ended(self, over_budget: bool) -> str:
        progress, patience = self.run.progress, self.config.patience
        if progress.step >= self.total:
            return "its steps"
        if over_budget:
            return "the budget"
        return "early stopping" if patience and progress.phase == "meta" and progress.stale >= patience else ""

    def _batches(self, first: int) -> Generator[EpisodeBatch]:
        boundary = min(max(self.config.pretrain_steps, first), self.total)
        phases = (self.config.pretrain_batch, first, boundary), (self.config.meta_batch, boundary, self.total)
        for size, begin, end in phases:
            if begin < end:
                share(size, self.ranks)
                loader = Loader(self.run.store, split="train", batch_size=size, seed=self.config.seed,
                                rank=self.ranks.rank, world_size=self.ranks.size,
                                augment=self.config.augment)  # fmt: skip
                yield from loader.stream(begin, end)

    def _report_training(self, means: dict[str, float]) -> None:
        theta, progress = self.run.state.theta, self.run.progress
        leads = self.run.spec.lead_minutes
        values = {f"train/{name}": value for name, value in means.items()}
        values |= {f"noise/std_{m}min": float(s) for m, s in zip(leads, theta["noise/log_std"].exp(), strict=True)}
        values |= {f"prior_log_std/{layer}": value for layer, value in prior_log_std(theta).items()}
        rates = [leaf.reshape(-1) for leaf in branch(theta, "log_rate").values()]
        if rates:
            values["inner/rate"] = float(torch.cat(rates).mean().exp())
        self.report.metrics(values, progress.step)
        best = f", best CRPS {progress.best['crps']:.4f}" if progress.best else ""
        self.report.progress(progress.step, self.total, f"{progress.phase} loss {means['loss']:.4f}{best}")

    def _summary(self, ended: str, finished: bool) -> TrainSummary:
        run, progress = self.run, self.run.progress
        return TrainSummary(
            str(run.path), progress.step, finished, ended, progress.best_step, progress.best, self.pace.steps_per_second
        )


def validation_of(run: Run, ranks: Ranks) -> Validation:
    """The run's fixed validation episodes; `FewcastError` where the store has none."""
    config, store = run.config, run.store
    ids = [int(i) for i in store.ids("validation")]
    if not ids:
        raise FewcastError(
            f"the episode store {config.episodes} has no validation episodes",
            found="none among its splits",
            mend="give episodes.split.validation times that have frames",
        )
    return Validation(
        Loader(store, split="validation", batch_size=1, seed=config.seed),
        spread_evenly(ids, config.validation_episodes),
        members=config.validation_members,
        leads=run.spec.lead_minutes,
        seed=config.seed,
        ranks=ranks,
        device=run.device,
    )


class _Pace:
    """Means of the metrics since the last report, and the speed without what is not training."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.steps_per_second = clock, 0.0
        self._sums: dict[str, float] = {}
        self._steps, self._seconds, self._mark = 0, 0.0, clock()

    def count(self, means: dict[str, float]) -> None:
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in means.items()}
        self._steps += 1
        self._seconds += self.clock() - self._mark
        self._mark = self.clock()

    def pause(self) -> None:
        """What passed since the last step is not training."""
        self._mark = self.clock()

    def read(self) -> dict[str, float]:
        means = {name: value / self._steps for name, value in self._sums.items()}
        means["steps_per_second"] = self.steps_per_second = self._steps / max(self._seconds, 1e-9)
        self._sums, self._steps, self._seconds = {}, 0, 0.0
        return means


def choose_device(config: TrainConfig) -> torch.device:
    """The configured device; `FewcastError` for a GPU that is not there."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise FewcastError("there is no GPU that torch can use", found="train.device = cuda",
                           mend="set train.device to auto or cpu")  # fmt: skip
    if config.device == "cpu" or not available:
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True  # or a resumed run would not be bit-identical
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)  # where collectives and graphs look
    return device
