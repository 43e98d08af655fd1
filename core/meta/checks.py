"""What a caller hands in, and the named errors for what cannot be learned from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.bayes.gaussian import Tree
from core.bayes.likelihood import ShapeMismatchError
from core.errors import FewcastError

Buffers = dict[str, tuple[Tensor, int]]


class NothingObservedError(FewcastError):
    """A set whose target pixels are all masked."""


class NonFiniteDataError(FewcastError):
    """A NaN or an infinity among the inputs or the observed targets."""


class UntrackedBuffersError(FewcastError):
    """A network that carries state, or draws noise, outside its parameters."""


class DivergedError(FewcastError):
    """A loss, a posterior or a meta-gradient stopped being finite."""


@dataclass(frozen=True)
class Examples:
    """One set of windows: x (N, ...), y (N, ...), mask like y (True where observed; None: everywhere)."""

    x: Tensor
    y: Tensor
    mask: Tensor | None = None

    @property
    def pixels(self) -> int:
        """The nominal number of target pixels, masked ones included: the divisor of the objective."""
        return self.y.numel()


def check_examples(examples: Examples, name: str) -> None:
    """Raise a named error for a set (`name`: support or query) that would poison an average. An empty set is fine."""
    x, y, mask = examples.x, examples.y, examples.mask
    if len(x) != len(y) or (mask is not None and mask.shape != y.shape):
        found = f"x {tuple(x.shape)}, y {tuple(y.shape)}, mask {None if mask is None else tuple(mask.shape)}"
        raise ShapeMismatchError(
            f"the {name} windows do not fit together", found=found, mend="give as many targets as inputs"
        )
    if not len(x):
        return
    if mask is not None and not bool(mask.any()):
        raise NothingObservedError(
            f"the {name} set has no observed target pixel",
            found=f"{y.numel()} masked ones",
            mend="leave this episode out, or raise the episode store's least observed fraction",
        )
    observed = y if mask is None else torch.where(mask, y, 0.0)
    for what, values in (("input", x), ("observed target", observed)):
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise NonFiniteDataError(
                f"the {name} set holds values that are not finite",
                found=f"{bad} {what} values",
                mend="set missing inputs to 0 with the validity plane, and mask missing targets",
            )


def check_network(network: nn.Module) -> None:
    """Raise `UntrackedBuffersError` for a module whose output depends on more than its parameters and its input."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            raise UntrackedBuffersError(
                f"{type(module).__name__} mixes support and query through its running statistics",
                found=f"it as {name!r}",
                mend="use GroupNorm, or track_running_stats=False",
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise UntrackedBuffersError(
                f"{type(module).__name__} draws noise that a recomputed step cannot repeat",
                found=f"it as {name!r} with p = {module.p}",
                mend="remove it, or call .eval(): the weights are random already",
            )


def check_buffers(network: nn.Module, before: Buffers) -> None:
    """Raise `UntrackedBuffersError` where a forward pass wrote to a buffer, or replaced one, since `before`."""
    for name, (buffer, version) in buffers_of(network).items():
        if buffer is not before[name][0] or version != before[name][1]:
            raise UntrackedBuffersError(
                "the network changes a buffer as it runs, so that a step depends on those before it",
                found=f"a write to {name!r}",
                mend="make it a function of its input and parameters alone",
            )


def buffers_of(network: nn.Module) -> Buffers:
    """Each buffer itself and how often it was written in place."""
    return {name: (buffer, buffer._version) for name, buffer in network.named_buffers()}


def first_not_finite(tree: Tree) -> str:
    """The name of the first leaf with a NaN or an infinity, or "". One synchronisation where all are finite."""
    if not tree or bool(torch.stack([torch.isfinite(leaf).all() for leaf in tree.values()]).all()):
        return ""
    return next(name for name, leaf in tree.items() if not bool(torch.isfinite(leaf).all()))
