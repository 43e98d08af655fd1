"""A training run's state: where it starts from (afresh, resumed or forked) and what it leaves in its directory."""

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import torch

from core.bayes.gaussian import Tree, branch, graft
from core.config import TrainConfig
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checkpoint import Checkpoint
from core.meta.learner import Learner
from core.meta.state import LearnerState
from core.model import AVERAGE, DataSpec, Model, as_pooled, build_learner
from core.report import Report
from core.training.pace import trained
from core.training.schedule import fitted, total_steps


@dataclass
class Progress:
    """What a checkpoint remembers beside the tensors."""

    step: int = 0
    phase: str = "meta"  # or "pooled"
    seconds: dict[str, float] = field(default_factory=dict)  # spent so far, by what (`core.training.pace`)
    best_step: int | None = None
    best: dict[str, float] = field(default_factory=dict)
    stale: int = 0  # validations since the best one
    forked_from: str = ""
    fitted: float = 0.0  # fraction of the configured steps that the budget has room for; 0: not asked
    calibrations: dict[str, Any] = field(default_factory=dict)  # by the last validation (`core.calibration`)
    inner_steps: int = 0  # with which the last validation forecast best; 0: those trained with
    validation_due: bool = False  # a validation of this step was cut off by the loss of a rank
    gradient: str = ""  # the exact mode that `auto` took; another after a resume would give other bits

    @property
    def trained_seconds(self) -> float:
        """What a budget counts, over all calls."""
        return trained(self.seconds)

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        known = {item.name for item in fields(cls)}
        return cls(checkpoint.step, **{n: v for n, v in checkpoint.meta["progress"].items() if n in known})


class Run:
    """Learners, state and progress of one run; the caller holds the run's directory (`checkpoint.owned`)."""

    def __init__(self, config: TrainConfig, report: Report, device: torch.device) -> None:
        self.config, self.device, self.path = config, device, Path(config.run)
        found = checkpoint.load_latest(self.path, report=report)
        self.store = _open_store(config, found)
        self.spec = DataSpec.of(self.store)
        self.learners = {"meta": build_learner(config, self.spec, device)}
        if config.pretrain_steps or (found and found.meta["phase"] == "pooled"):
            self.learners["pooled"] = build_learner(as_pooled(config), self.spec, device)
        self.state, self.progress = self._resume(found, report) if found else self._begin(report)
        self.average: Tree = {}
        if config.averaging:
            averaged = branch(found.tensors, AVERAGE) if found else {}
            self.average = {n: leaf.to(device) for n, leaf in averaged.items()} or dict(self.state.theta)
        self._saved_step = self.progress.step if found else -1

    @property
    def plan(self) -> TrainConfig:
        """The config with the numbers of steps that this run will take."""
        return _plan(self.config, self.progress)

    @property
    def learner(self) -> Learner:
        return self.learners[self.progress.phase]

    @property
    def judged(self) -> LearnerState:
        """The state that is validated and used: the average where there is one."""
        return replace(self.state, theta=self.average) if self.average else self.state

    @property
    def shortfall(self) -> str:
        """What a run that ends here is not, since it came to no meta-step; empty where it is what was asked for."""
        if self.learner.config.learner == self.config.learner:
            return ""
        return (
            f"{self.path} ended before its first meta-step: its model is pooled, and not {self.config.learner}; "
            "raise train.budget_minutes, or train anew with train.fit_budget, which shortens both phases alike"
        )

    def fingerprint(self) -> str:
        """A digest of where this run stands, and on which episodes."""
        digest = hashlib.sha256(f"{self.store.digest} {self.progress.phase} {self.progress.step}".encode())
        for tensor in self.state.tensors().values():
            digest.update(tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def advance(self, state: LearnerState) -> None:
        """Take the state after one more step into the run."""
        self.state = state
        self.progress.step += 1
        decay = min(self.config.averaging, (1 + state.step) / (10 + state.step))  # short at first, to forget the start
        self.average = {n: leaf.lerp(state.theta[n], 1 - decay) for n, leaf in self.average.items()}

    def start_meta(self) -> None:
        """After the pooled steps: their (averaged) weights become the prior's first mean; the best is sought anew."""
        self.state = self.learners["meta"].init_state(pooled=self.judged)
        self.average = dict(self.state.theta) if self.config.averaging else {}
        progress = self.progress
        progress.phase, progress.best_step, progress.best, progress.stale = "meta", None, {}, 0
        progress.calibrations, progress.inner_steps = {}, 0

    def judge(self, values: dict[str, float], calibrations: dict[str, Any], inner_steps: int) -> None:
        """Remember a validation; a checkpoint that this step has already does not know it."""
        progress, self._saved_step = self.progress, -1
        progress.validation_due = False
        progress.calibrations, progress.inner_steps = calibrations, inner_steps
        if not progress.best or values["crps"] < progress.best["crps"]:
            progress.best_step, progress.best, progress.stale = progress.step, values, 0
        else:
            progress.stale += 1

    def save(self) -> None:
        """Checkpoint, unless this step has one."""
        if self._saved_step == self.progress.step:
            return
        progress = asdict(self.progress)
        step = progress.pop("step")
        meta: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"),
            "spec": self.spec.to_json(),
            "episodes_digest": self.store.digest,
            "episodes_version": self.store.version,
            "phase": progress["phase"],
            "pretrain_steps": self.plan.pretrain_steps,
            "best_step": progress["best_step"],
            "progress": progress,
        }
        keep = [s for s in (self.progress.best_step, self.plan.pretrain_steps or None) if s is not None]
        tensors = self.state.tensors() | graft(AVERAGE, self.average)
        checkpoint.save(self.path, step, tensors, meta, keep_last=self.config.keep, keep=keep)
        self._saved_step = step

    def _begin(self, report: Report) -> tuple[LearnerState, Progress]:
        if self.config.fork:
            return self._fork(report)
        phase = "pooled" if self.config.pretrain_steps else "meta"
        return self.learners[phase].init_state(), Progress(phase=phase)

    def _fork(self, report: Report) -> tuple[LearnerState, Progress]:
        """Another run's prior with a fresh optimiser; a forked run has no pooled steps.

        Step sizes of the inner loop that the other has not learned, or not in this shape, start afresh.
        """
        model = Model.load(self.config.fork, device=str(self.device), report=report)
        learner = self.learners["meta"]
        pooled = model.state if model.config.learner == "pooled" and learner.config.learner != "pooled" else None
        fresh = learner.init_state(pooled).theta
        rates = {name for name in fresh if name.startswith("log_rate/")}
        taken = {n: leaf for n, leaf in model.state.theta.items() if n not in rates or leaf.shape == fresh[n].shape}
        taken = {n: leaf for n, leaf in taken.items() if n in fresh or not n.startswith(("log_rate/", "log_std/"))}
        theta = {n: leaf for n, leaf in fresh.items() if n.startswith(("log_rate/", "log_std/"))} | taken
        other = Checkpoint(model.path, model.step, theta, {}, model.version)
        checkpoint.require_same_shapes(other, fresh)
        origin = f"{self.config.fork} at step {model.step} ({model.version})"
        report.message(f"forked from {origin}")
        state = replace(learner.init_state(), theta={name: theta[name] for name in fresh})
        return state, Progress(forked_from=origin)

    def _resume(self, found: Checkpoint, report: Report) -> tuple[LearnerState, Progress]:
        progress = Progress.of(found)
        planned = _plan(self.config, progress).pretrain_steps
        if progress.phase == "meta" and found.step < planned:
            raise FewcastError(
                f"the run {self.path} is past its pooled steps",
                found=f"it at step {found.step}, {planned} pooled steps configured",
                mend=f"set train.pretrain_steps to at most {found.step}, or choose another train.run",
            )
        tensors = {n: leaf.to(self.device) for n, leaf in found.tensors.items() if not n.startswith(f"{AVERAGE}/")}
        expected = self.learners[progress.phase].init_state().tensors()
        checkpoint.require_same_shapes(replace(found, tensors=tensors), expected)
        changes = _changes(found.meta["config"], self.config.model_dump(mode="json"))
        report.message(f"going on from step {found.step}" + (f" with {changes}" if changes else ""))
        return LearnerState.from_tensors(tensors), progress


def _plan(config: TrainConfig, progress: Progress) -> TrainConfig:
    if progress.forked_from:
        config = config.model_copy(update={"pretrain_steps": 0})
    return fitted(config, progress.fitted or 1.0)


def reason_to_end(plan: TrainConfig, progress: Progress, over_budget: bool) -> str:
    """What ends a run that stands at `progress`; empty where it goes on."""
    if progress.step >= total_steps(plan):
        return "its steps"
    if over_budget:
        return "the budget"
    patience = plan.patience
    return "early stopping" if patience and progress.phase == "meta" and progress.stale >= patience else ""


def is_over_budget(config: TrainConfig, progress: Progress) -> bool:
    """Whether the time that a run may take is spent."""
    return progress.trained_seconds >= config.budget_minutes * 60


def ended_by(config: TrainConfig, found: Checkpoint) -> str:
    """What a run that has that checkpoint was ended by, as `train` would find; empty where it would go on."""
    progress = Progress.of(found)
    if progress.validation_due:
        return ""
    return reason_to_end(_plan(config, progress), progress, is_over_budget(config, progress))


def episodes_of(config: TrainConfig) -> EpisodeStore:
    """The episodes that a run trains on: those that its newest checkpoint has pinned, or the newest there are."""
    return _open_store(config, checkpoint.load_latest(Path(config.run)))


def _open_store(config: TrainConfig, pinned: Checkpoint | None) -> EpisodeStore:
    """The newest version of the store, or the one that the run has pinned, unchanged."""
    meta = pinned.meta if pinned else None
    store = EpisodeStore.open(config.episodes, meta["episodes_version"] if meta else None)
    if meta and store.digest != meta["episodes_digest"]:
        raise FewcastError(
            f"the episode store {config.episodes} is not the one that this run was trained on",
            found=f"digest {store.digest[:12]} where the run has {meta['episodes_digest'][:12]}",
            mend="restore that store, or set train.run to another folder and train.fork to this run",
        )
    return store


def _changes(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """`inner.rate 0.01 -> 0.003`, and so on."""
    found = []
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            found.append(_changes(old, value, f"{prefix}{key}."))
        elif old != value:
            found.append(f"{prefix}{key} {old} -> {value}")
    return ", ".join(part for part in found if part)


def device_of(wanted: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device; `FewcastError` for a GPU that is not there."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise FewcastError("there is no GPU that torch can use", found="device = cuda",
                           mend="set it to auto or cpu")  # fmt: skip
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True  # or a resumed run would not be bit-identical
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)  # where collectives and graphs look
    return device
