"""A trained run, ready to adapt and to forecast: network, likelihood, prior and units rebuilt from a checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import ValidationError
from torch import Tensor

from core.bayes.gaussian import branch
from core.bayes.likelihood import GaussianLikelihood
from core.bayes.unet import UNet
from core.calibration import Calibration
from core.config import TrainConfig
from core.config.train import ExtraInput
from core.episodes.extra import in_order, plane_names
from core.episodes.store import EpisodeStore
from core.errors import FewcastError
from core.meta import checkpoint
from core.meta.checkpoint import Checkpoint
from core.meta.checks import Examples
from core.meta.learner import Learner, Windows
from core.meta.state import LearnerState, Posterior
from core.report import Report, Silent
from core.verify.mixture import Mixture

AVERAGE = "average"
"""Prefix of the averaged prior's tensors in a checkpoint, where there is one."""


@dataclass(frozen=True)
class DataSpec:
    """What the network must know of the episodes, and whoever forecasts with it of their units."""

    channels: tuple[str, ...]
    input_frames: int
    target_frames: int
    lead_minutes: tuple[int, ...]
    tile_pixels: int
    margin_pixels: int
    mean: tuple[float, ...]  # per channel; normalised = (value - mean) / std
    std: tuple[float, ...]

    @classmethod
    def of(cls, store: EpisodeStore) -> Self:
        spec, normalisation = store.spec, store.normalisation
        return cls(
            spec.channels,
            spec.input_frames,
            spec.target_frames,
            tuple(spec.lead_minutes),
            spec.tile_pixels,
            spec.margin_pixels,
            tuple(float(value) for value in normalisation.mean),
            tuple(float(value) for value in normalisation.std),
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**plain)


def build_learner(config: TrainConfig, spec: DataSpec, device: torch.device | None = None) -> Learner:
    """The configured learner over a U-Net for these episodes; its first weights are a function of `config.seed`."""
    scale_head = config.likelihood == "gaussian_scale"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = UNet(
            config.network,
            spec.input_frames,
            spec.target_frames,
            len(spec.channels),
            scale_head=scale_head,
            extra_planes=len(plane_names(config.network.extra_inputs)),
            margin=spec.margin_pixels,
        )
    likelihood = GaussianLikelihood(
        spec.target_frames,
        len(spec.channels),
        heteroscedastic=scale_head,
        score=config.score,
        score_weight=config.score_weight,
    )
    return Learner(network.to(device or torch.device("cpu")), likelihood, config)


def as_pooled(config: TrainConfig) -> TrainConfig:
    """The same run as a pooled learner: what its pretraining steps are."""
    return config.model_copy(update={"learner": "pooled"})


@dataclass(frozen=True)
class Model:
    """A learner with its trained prior. Data in and out are normalised; `spec.mean` and `spec.std` undo it."""

    learner: Learner
    state: LearnerState
    config: TrainConfig
    spec: DataSpec
    step: int
    path: Path
    version: str  # digest of the checkpoint
    episodes_digest: str  # of the episode store that it was trained on
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)  # of `adapted` and of `prior` forecasts
    chosen_steps: int = 0  # inner steps that validation chose, where it tried several
    seconds: Mapping[str, float] = field(default_factory=dict)  # up to this step, by what (`core.training.pace`)
    forked_from: str = ""  # where training began, if at another run's checkpoint

    @classmethod
    def load(
        cls,
        run: str | Path,
        which: Literal["best", "last", "pretrained"] | int = "best",
        *,
        device: str = "cpu",
        report: Report | None = None,
    ) -> Self:
        """Rebuild from a run's directory: its best checkpoint on validation CRPS, the last, the pooled one, or a step.

        `run` may also be one checkpoint's folder, wherever it was copied; `which` then has no say. Where the best does
        not verify, the newest good one is used, and the report says so. Raises `FewcastError` where there is none.
        """
        found = find(Path(run), which, report)
        try:
            config = TrainConfig.model_validate(found.meta["config"])
            spec = DataSpec.from_json(found.meta["spec"])
            pooled = found.meta["phase"] == "pooled"
            learner = build_learner(as_pooled(config) if pooled else config, spec, torch.device(device))
        except (KeyError, TypeError, ValidationError) as error:
            raise FewcastError(
                f"the checkpoint {found.path} was written by another version of fewcast",
                found=str(error).splitlines()[0],
                mend="train again, or use the version that wrote it",
            ) from error
        progress = found.meta["progress"]
        fitted = progress.get("calibrations", {})
        calibrations = {name: Calibration.from_json(values) for name, values in fitted.items()}
        average = branch(found.tensors, AVERAGE)
        trained = {name: leaf for name, leaf in found.tensors.items() if not name.startswith(f"{AVERAGE}/")}
        checkpoint.require_same_shapes(replace(found, tensors=trained), learner.init_state().tensors())
        state = LearnerState.from_tensors({name: leaf.to(device) for name, leaf in trained.items()})
        if average:
            state = replace(state, theta={name: leaf.to(device) for name, leaf in average.items()})
        return cls(learner, state, learner.config, spec, found.step, found.path, found.digest[:16],
                   found.meta["episodes_digest"], calibrations, progress.get("inner_steps", 0),
                   progress.get("seconds", {}), progress.get("forked_from", ""))  # fmt: skip

    @property
    def extra_inputs(self) -> tuple[ExtraInput, ...]:
        """What the network sees beside the frames, in the order of its planes."""
        return in_order(self.config.network.extra_inputs)

    @property
    def input_planes(self) -> tuple[str, ...]:
        """What each plane of an input is: the frames, oldest first, then how much is observed, then extra planes."""
        spec, cadence = self.spec, self.spec.lead_minutes[0]
        ages = [(spec.input_frames - 1 - frame) * cadence for frame in range(spec.input_frames)]
        frames = [f"{name}, {age} minutes before" if age else name for age in ages for name in spec.channels]
        return (*frames, "fraction observed", *plane_names(self.extra_inputs))

    @property
    def inner_steps(self) -> int:
        """The number of inner steps that `adapt` takes by default: as trained, or as validation chose."""
        return self.chosen_steps or self.learner.inner.steps

    @property
    def device(self) -> torch.device:
        return next(iter(self.state.theta.values())).device

    def adapt(self, support: Windows | Examples, steps: int | None = None, *, seed: int = 0) -> Posterior:
        """The posterior of one episode from its support x (N, I, H, W), y and mask; `steps` = 0 gives the prior.

        The default is `inner_steps`. A pooled model takes plain gradient steps: fine-tuning.
        """
        mask = None if support.mask is None else support.mask.to(self.device)
        examples = Examples(support.x.to(self.device), support.y.to(self.device), mask)
        return self.learner.posterior(
            self.state, examples, steps=self.inner_steps if steps is None else steps, seed=seed
        )

    def predict(self, posterior: Posterior, x: Tensor, members: int, seed: int = 0) -> Mixture:
        """The predictive mixture of `members` weight samples for inputs x (N, I, H, W), a function of `seed`.

        Its std is calibrated as validation found best, for the prior's own forecast and for adapted ones.
        """
        return self.sampler(posterior, members, seed)(x)

    def sampler(self, posterior: Posterior, members: int, seed: int = 0) -> Callable[[Tensor], Mixture]:
        """`predict` for any number of x, with weight samples that are drawn once."""
        components = self.learner.sampler(posterior, members, torch.Generator(self.device).manual_seed(seed))
        own = None if len(posterior.support) else self.calibrations.get("prior")
        calibration = own or self.calibrations.get("adapted")

        def predict(x: Tensor) -> Mixture:
            mixture = Mixture(*components(x.to(self.device)))
            return calibration(mixture) if calibration else mixture

        return predict


def find(run: Path, which: str | int, report: Report | None = None) -> Checkpoint:
    """The checkpoint of a run that `which` names (see `Model.load`)."""
    if (run / checkpoint.META).is_file():
        return checkpoint.read(run)
    if isinstance(which, int):
        return checkpoint.load(run, which)
    last = checkpoint.load_latest(run, report=report)
    if last is None:
        raise FewcastError(f"there is no trained run in {run}", found="no checkpoint",
                           mend="run `fewcast train` first, or give the run's directory")  # fmt: skip
    if which == "pretrained":
        if not last.meta.get("pretrain_steps"):
            raise FewcastError(f"the run {run} has no pooled steps", found="train.pretrain_steps = 0 in it",
                               mend="train with pooled steps, or load its best or last checkpoint")  # fmt: skip
        return checkpoint.load(run, last.meta["pretrain_steps"])
    best = last.meta["best_step"]
    if which == "last" or best is None or best == last.step:
        return last
    try:
        return checkpoint.load(run, best)
    except FewcastError as error:
        (report or Silent()).message(f"the last checkpoint, of step {last.step}, is used for the best: {error}")
        return last
