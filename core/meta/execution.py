"""How a meta-gradient is executed: operator by operator, as one recorded CUDA graph, or compiled.

Small networks on a GPU wait for kernel launches: a meta-gradient is some ten thousand of them. Recorded once, they are
replayed by a single call; compiled, they are also fused. Both take a function of tensors alone: theta, both sets and
every noise draw go in, so nothing in it touches a generator or the host.
"""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Literal

import torch

from core.bayes.gaussian import Tree, branch, graft
from core.errors import FewcastError
from core.meta.inner_loop import BayesianEpisode
from core.meta.meta_gradient import MODES, MetaGradient
from core.meta.stacked import StackedEpisodes, tensors_of, with_tensors

WARM_UP = 3  # calls before recording, so that libraries have chosen their kernels and reserved their workspaces
TOLERANCE = 1e-3  # of a compiled gradient against the eager one, relative to its norm; rounding is far below

Execution = Literal["eager", "stacked", "cuda_graph", "compile"]

_RECORDING = Lock()  # recordings empty the allocator's cache, which none may do while another records


class CompiledDiffersError(FewcastError):
    """A compiled meta-gradient is not the eager one."""


class Captured:
    """`function(tree) -> tree`, recorded for inputs with the names and shapes of `example` and replayed for others."""

    def __init__(self, function: Callable[[Tree], Tree], example: Tree) -> None:
        self._inputs = {name: leaf.detach().clone() for name, leaf in example.items()}
        side = torch.cuda.Stream()
        with _RECORDING:
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    function(self._inputs)
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: other threads pin the next batches meanwhile, which a recording of all threads would refuse.
            with torch.cuda.graph(self._graph, stream=side, capture_error_mode="thread_local"):
                self._outputs = function(self._inputs)

    def __call__(self, inputs: Tree) -> Tree:
        """The function's value, in memory of its own: the next call does not overwrite it."""
        for name, leaf in self._inputs.items():
            leaf.copy_(inputs[name])
        self._graph.replay()
        return {name: leaf.clone() for name, leaf in self._outputs.items()}


class Compiled:
    """`function(tree) -> tree` under torch.compile, proven on its first call.

    The trap: on some operators the compiler has been silently wrong in second derivatives (`F.interpolate` on a CPU),
    so the first result is compared with the eager one, and `CompiledDiffersError` raised where they differ.
    """

    def __init__(self, function: Callable[[Tree], Tree], example: Tree, backend: str | Callable = "inductor") -> None:
        self._compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=False)
        expected, found = function(example), self(example)
        for name, leaf in expected.items():
            error = (found[name] - leaf).norm()
            if not bool(error <= TOLERANCE * leaf.norm() + torch.finfo(leaf.dtype).tiny):
                raise CompiledDiffersError(
                    "the compiled meta-gradient is not the eager one",
                    found=f"a difference of {error:.3g} in {name}, whose norm is {leaf.norm():.3g}",
                    mend="set train.execution to eager or cuda_graph",
                )

    def __call__(self, inputs: Tree) -> Tree:
        from torch._dynamo import config  # seconds to import, and only compiling needs it

        with config.patch(trace_autograd_ops=True):
            return self._compiled(inputs)


class Executor:
    """Meta-gradients of episodes in one way of execution, prepared once for each mode, shape and loss."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self._prepared: dict[Hashable, Callable[[Tree], Tree]] = {}

    def __call__(self, mode: str, episode: BayesianEpisode | StackedEpisodes, theta: Tree) -> MetaGradient:
        if self.execution == "eager" or isinstance(episode, StackedEpisodes):
            return MODES[mode](episode, theta)
        inputs = pack(episode, theta)
        terms = episode.outer_terms
        key = (mode, tuple(terms.weights.items()), *((name, leaf.shape) for name, leaf in inputs.items()))
        if key not in self._prepared:
            prepare = Captured if self.execution == "cuda_graph" else Compiled
            self._prepared[key] = prepare(as_function(mode, episode), inputs)
        return unpack(self._prepared[key](inputs))


def pack(episode: BayesianEpisode, theta: Tree) -> Tree:
    """Every tensor that an episode's meta-gradient depends on, its noise included."""
    return graft("theta", theta) | tensors_of(episode, theta)


def as_function(mode: str, episode: BayesianEpisode) -> Callable[[Tree], Tree]:
    """The meta-gradient as a function of `pack`'s tree alone; the episode gives what is not a tensor."""

    def function(inputs: Tree) -> Tree:
        result = MODES[mode](with_tensors(episode, inputs), branch(inputs, "theta"))
        parts = {"gradient": result.gradient, "terms": result.terms, "adapted": result.adapted}
        flat = {"loss": result.loss, "data": result.data}
        return flat | {name: leaf for part, tree in parts.items() for name, leaf in graft(part, tree).items()}

    return function


def unpack(outputs: Tree) -> MetaGradient:
    """The inverse of what `as_function` did to its result."""
    parts = {part: branch(outputs, part) for part in ("gradient", "terms", "adapted")}
    return MetaGradient(loss=outputs["loss"], data=outputs["data"], **parts)
