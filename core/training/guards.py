"""What stops a training run before it spoils its prior or wastes its hours; each error says the mend."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from core.bayes.gaussian import Tree, branch
from core.config import TrainConfig
from core.errors import FewcastError

EXPLODED_GRADIENT = 1e4
"""Times the usual norm of the meta-gradient."""
COLLAPSED_STD, EXPLODED_STD = 1e-4, 1e3
"""Times the prior's first std."""
_PATIENCE, _WARMUP, _MEMORY = 5, 20, 0.95


class UnhealthyTrainingError(FewcastError):
    """Training went astray at a step; the checkpoint before is good."""


class GradientGuard:
    """Raises when the gradient's norm stays far above its running geometric mean for several steps."""

    def __init__(self) -> None:
        self._log_usual, self._seen, self._above = 0.0, 0, 0

    def check(self, norm: float, step: int) -> None:
        log_norm = math.log(max(norm, 1e-30))
        if self._seen >= _WARMUP and log_norm > self._log_usual + math.log(EXPLODED_GRADIENT):
            self._above += 1
            if self._above >= _PATIENCE:
                raise UnhealthyTrainingError(
                    f"the meta-gradient exploded at step {step}",
                    found=f"a norm of {norm:.3g}, usually {math.exp(self._log_usual):.3g}",
                    mend="lower train.learning_rate or train.inner.rate, or set train.inner.clip and train.outer.clip",
                )
            return
        self._above = 0
        memory = min(_MEMORY, self._seen / (self._seen + 1))
        self._log_usual = memory * self._log_usual + (1 - memory) * log_norm
        self._seen += 1


def check_loss(loss: float, step: int) -> None:
    """Raise for a meta-loss that is not finite."""
    if not math.isfinite(loss):
        raise UnhealthyTrainingError(
            f"the meta-loss is not finite at step {step}",
            found=str(loss),
            mend="lower train.learning_rate or train.inner.rate, or set train.inner.clip",
        )


def check_prior(theta: Tree, config: TrainConfig, step: int) -> None:
    """Raise where a layer's mean log std left the range in which weights are uncertain and still carry information."""
    for layer, value in prior_log_std(theta).items():
        ratio = math.exp(min(value - config.initial_log_std, 700.0))
        if ratio < COLLAPSED_STD:
            raise UnhealthyTrainingError(
                f"the prior of {layer} collapsed to a point at step {step}",
                found=f"a std of {math.exp(value):.3g}",
                mend="lower train.learning_rate or train.inner.rate, or raise train.initial_log_std",
            )
        if ratio > EXPLODED_STD or not math.isfinite(value):
            raise UnhealthyTrainingError(
                f"the prior of {layer} exploded at step {step}",
                found=f"a std of {math.exp(min(value, 700.0)):.3g}",
                mend="lower train.learning_rate, or raise train.kl_weight",
            )


def prior_log_std(theta: Tree) -> dict[str, float]:
    """The mean log std of each top-level part of the network, one synchronisation with the device."""
    groups: dict[str, list[Tensor]] = {}
    for name, leaf in branch(theta, "log_std").items():
        groups.setdefault(_layer(name), []).append(leaf.flatten())
    if not groups:
        return {}
    values = torch.stack([torch.cat(leaves).mean() for leaves in groups.values()]).tolist()
    return dict(zip(groups, values, strict=True))


def gradient_norm(gradient: Mapping[str, Tensor]) -> float:
    """The Euclidean norm over all leaves."""
    return float(torch.stack([leaf.square().sum() for leaf in gradient.values()]).sum().sqrt())


def _layer(name: str) -> str:
    """`encoder.0.conv1.weight` -> `encoder.0`, `stem.weight` -> `stem`."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]
