"""Find the module that stands in the way of forward-over-reverse differentiation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.bayes.gaussian import Tree
from core.errors import FewcastError


class ForwardModeError(FewcastError):
    """A module has no forward-mode derivative of its gradient."""


def explain(network: nn.Module, weights: Tree, x: Tensor) -> ForwardModeError | None:
    """The named error for the first module whose gradient cannot be pushed forward; None if each alone can."""
    for name, module, inputs in _calls(network, weights, x):
        trouble = _trouble(module, inputs)
        if trouble is not None:
            return ForwardModeError(
                "gradient = 'mixed' needs forward-mode derivatives",
                found=f"{type(module).__name__} at {name or 'the top'!r} without them ({_first_line(trouble)})",
                mend="use gradient = 'checkpointed', which is as exact and as small, or another operator",
            )
    return None


def _calls(network: nn.Module, weights: Tree, x: Tensor) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Every module's call in one forward pass, the innermost first."""
    calls: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    handles = [
        module.register_forward_hook(lambda m, inputs, _, name=name: calls.append((name, m, inputs)))
        for name, module in network.named_modules()
    ]
    try:
        with torch.no_grad():
            functional_call(network, weights, (x,))
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _trouble(module: nn.Module, inputs: tuple[Any, ...]) -> Exception | None:
    parameters = {name: leaf.detach().to(inputs[0]) for name, leaf in module.named_parameters()}

    def gradient(values: tuple[Tensor, Tree]) -> tuple[Tensor, Tree]:
        def loss(values: tuple[Tensor, Tree]) -> Tensor:
            return functional_call(module, values[1], (values[0], *inputs[1:])).square().sum()

        return torch.func.grad(loss)(values)

    point = (inputs[0], parameters)
    tangent = (torch.ones_like(inputs[0]), {name: torch.ones_like(leaf) for name, leaf in parameters.items()})
    try:
        torch.func.jvp(gradient, (point,), (tangent,))
    except RuntimeError as error:  # what torch raises for an operator without such a rule, or a kind of it
        return error
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
