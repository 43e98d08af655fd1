"""What training changes and what adapting makes, as trees of tensors; and the Adam step from one state to the next."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.bayes.gaussian import Tree, branch, graft

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's usual ones


@dataclass(frozen=True)
class LearnerState:
    """Everything that training changes: theta, Adam's moments (same names) and the number of meta-steps done."""

    theta: Tree
    first_moment: Tree
    second_moment: Tree
    step: int = 0

    def tensors(self) -> Tree:
        """One flat tree, for a checkpoint; `from_tensors` is the inverse."""
        parts = {"theta": self.theta, "first_moment": self.first_moment, "second_moment": self.second_moment}
        flat = {name: leaf for part, tree in parts.items() for name, leaf in graft(part, tree).items()}
        return flat | {"step": torch.tensor(self.step)}

    @classmethod
    def from_tensors(cls, tensors: Tree) -> "LearnerState":
        parts = {part: branch(tensors, part) for part in ("theta", "first_moment", "second_moment")}
        return cls(**parts, step=int(tensors["step"]))


@dataclass(frozen=True)
class Posterior:
    """q(phi given lambda): weights without a `log_std` are point values; `noise` are the likelihood's parameters."""

    mean: Tree
    log_std: Tree
    noise: Tree
    support: Tensor  # (M,): loss per pixel of the support before each step


def adam_step(state: LearnerState, gradient: Tree, rates: Mapping[str, float], *, clip: float = 0.0) -> LearnerState:
    """One step of Adam (Kingma & Ba, 2015) down `gradient`, each leaf at its own rate; `clip` bounds the norm, 0: not.

    One call for all leaves: one by one, a GPU waits for some thousand launches a step, and a CPU for Python.
    """
    names, leaves, t = list(gradient), list(gradient.values()), state.step + 1
    if clip:
        norm = torch.stack(torch._foreach_norm(leaves)).norm()
        leaves = list(torch._foreach_mul(leaves, clip / norm.clamp(min=clip)))
    first = torch._foreach_lerp([state.first_moment[name] for name in names], leaves, 1 - BETAS[0])
    squares = torch._foreach_mul(leaves, leaves)
    second = torch._foreach_lerp([state.second_moment[name] for name in names], squares, 1 - BETAS[1])
    denominator = torch._foreach_sqrt(torch._foreach_div(second, 1 - BETAS[1] ** t))
    torch._foreach_add_(denominator, EPSILON)
    change = torch._foreach_mul(first, [-rates[name] / (1 - BETAS[0] ** t) for name in names])
    theta = torch._foreach_addcdiv([state.theta[name] for name in names], change, denominator)
    trees = [dict(zip(names, part, strict=True)) for part in (theta, first, second)]
    return LearnerState(trees[0], trees[1], trees[2], t)
