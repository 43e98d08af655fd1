"""A whole meta-gradient as one CUDA graph.

Small networks on a GPU wait for kernel launches: a meta-gradient is some ten thousand of them. Recorded once, they are
replayed by a single call. What is recorded is a function of tensors alone, at fixed addresses: theta, both sets and
every noise draw go in, so nothing in it touches a generator or the host.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch

from core.bayes.gaussian import Tree, branch, graft
from core.meta.checks import Examples
from core.meta.inner_loop import BayesianEpisode
from core.meta.meta_gradient import MODES, MetaGradient

WARM_UP = 3  # calls before recording, so that libraries have chosen their kernels and reserved their workspaces


class Captured:
    """`function(tree) -> tree`, recorded for inputs with the names and shapes of `example` and replayed for others."""

    def __init__(self, function: Callable[[Tree], Tree], example: Tree) -> None:
        self._inputs = {name: leaf.detach().clone() for name, leaf in example.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                function(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(self._inputs)

    def __call__(self, inputs: Tree) -> Tree:
        """The function's value, in memory of its own: the next call does not overwrite it."""
        for name, leaf in self._inputs.items():
            leaf.copy_(inputs[name])
        self._graph.replay()
        return {name: leaf.clone() for name, leaf in self._outputs.items()}


class Replayer:
    """Meta-gradients of episodes, recorded once for each mode, shape and loss."""

    def __init__(self) -> None:
        self._recorded: dict[Hashable, Captured] = {}

    def __call__(self, mode: str, episode: BayesianEpisode, theta: Tree) -> MetaGradient:
        inputs = pack(episode, theta)
        terms = episode.outer_terms
        key = (mode, tuple(terms.weights.items()), *((name, leaf.shape) for name, leaf in inputs.items()))
        if key not in self._recorded:
            self._recorded[key] = Captured(as_function(mode, episode), inputs)
        return unpack(self._recorded[key](inputs))


def pack(episode: BayesianEpisode, theta: Tree) -> Tree:
    """Every tensor that an episode's meta-gradient depends on, its noise included."""
    assert episode.query is not None
    inputs = graft("theta", theta)
    for part, examples in (("support", episode.support), ("query", episode.query)):
        inputs |= graft(part, {"x": examples.x, "y": examples.y})
        if examples.mask is not None:
            inputs[f"{part}/mask"] = examples.mask
    for draw, noise in episode.all_noise(theta).items():
        inputs |= graft(f"draw {draw}", noise)
    return inputs


def as_function(mode: str, episode: BayesianEpisode) -> Callable[[Tree], Tree]:
    """The meta-gradient as a function of `pack`'s tree alone; the episode gives what is not a tensor."""

    def function(inputs: Tree) -> Tree:
        names = {name.partition("/")[0] for name in inputs if name.startswith("draw ")}
        sets = {part: branch(inputs, part) for part in ("support", "query")}
        support, query = (Examples(part["x"], part["y"], part.get("mask")) for part in sets.values())
        noise = {name.removeprefix("draw "): branch(inputs, name) for name in names}
        here = replace(episode, support=support, query=query, noise=noise)
        result = MODES[mode](here, branch(inputs, "theta"))
        parts = {"gradient": result.gradient, "terms": result.terms, "adapted": result.adapted}
        flat = {"loss": result.loss, "data": result.data}
        return flat | {name: leaf for part, tree in parts.items() for name, leaf in graft(part, tree).items()}

    return function


def unpack(outputs: Tree) -> MetaGradient:
    """The inverse of what `as_function` did to its result."""
    parts = {part: branch(outputs, part) for part in ("gradient", "terms", "adapted")}
    return MetaGradient(loss=outputs["loss"], data=outputs["data"], **parts)
