"""The exact gradient through the inner loop.

Adapting to a support set and being judged on a query set is the two-level problem

    lambda_0     = theta (its part that is adapted)
    g_m          = d D_m(lambda_m, theta) / d lambda                     the data term's gradient
    lambda_{m+1} = U_m(lambda_m, g_m, theta)                             elementwise: rate, KL gradient, clipping
    J(theta)     = sum_m c_m Q_m(lambda_m, theta)                        c = (0, ..., 0, 1) unless multi-step

and the meta-gradient is dJ/dtheta. For Bayesian meta-learning (`inner_loop.BayesianEpisode`) lambda is the mean and the
log std of every weight, D_m the expected negative log likelihood of the support, U_m a gradient step on D_m plus the KL
to the prior, and Q_M the negative ELBO of the query.

With the adjoint a_m = dJ/d lambda_m, started at a_M = c_M dQ_M/d lambda, the chain rule read backwards is, for
m = M-1 ... 0,

    (u_lambda, u_g, u_theta) = a_{m+1}^T dU_m/d(lambda, g, theta)        elementwise, so nearly free
    (h_lambda, h_theta)      = u_g^T d^2 D_m / d lambda d(lambda, theta) one Hessian-vector product
    a_m      = u_lambda + h_lambda + c_m dQ_m/d lambda
    dJ/dtheta accumulates u_theta + h_theta + c_m dQ_m/dtheta, and a_0 at the end, since lambda_0 = theta.

The KL appears in U_m as its closed-form gradient, so its second derivatives (with respect to lambda and to theta) come
out of the elementwise vector-Jacobian product. The modes differ only in how they get h:

    unrolled      reverse over reverse: autograd keeps every step's graph. Memory grows with M.
    checkpointed  reverse over reverse, one step at a time: step m is recomputed from lambda_m. Memory grows by one
                  copy of lambda a step.
    mixed         forward over reverse: as the Hessian is symmetric, h = d/de at e = 0 of the gradient of
                  D_m(lambda + e u_g, theta) with respect to both, one `jvp` of `grad`, again one step at a time
                  (MixFlow-MG, arXiv 2505.00793).
    first_order   h = 0: not exact. The elementwise parts (KL, rates) are kept, being free.

`checkpointed` and `mixed` store lambda_m and nothing else. They evaluate D_m again, so D_m must be a pure function:
noise is drawn from the step's own seed, never from a shared generator.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from core.bayes.gaussian import Tree

Pair = tuple[Tree, Tree]  # named here, since the compiler cannot evaluate annotations inside functions
Trees = tuple[Tree, ...]


@runtime_checkable
class TwoLevelProblem(Protocol):
    """The problem above; `adapted` is lambda_m throughout."""

    @property
    def steps(self) -> int:
        """M."""

    @property
    def outer_weights(self) -> Mapping[int, float]:
        """m -> c_m, without the zeros."""

    @property
    def update_is_nonlinear(self) -> bool:
        """Whether U_m is nonlinear in g_m, as clipping makes it."""

    def start(self, theta: Tree) -> Tree:
        """lambda_0."""

    def read_by_data(self, theta: Tree) -> Tree:
        """The leaves of theta that D_m depends on."""

    def data(self, adapted: Tree, theta: Tree, m: int) -> Tensor:
        """D_m."""

    def update(self, adapted: Tree, gradient: Tree, theta: Tree, m: int) -> Tree:
        """U_m: lambda_{m+1}."""

    def outer(self, adapted: Tree, theta: Tree, m: int) -> tuple[Tensor, Tree]:
        """Q_m, and its parts by name."""


@dataclass(frozen=True)
class MetaGradient:
    """J, dJ/dtheta, and what was seen on the way (all detached)."""

    loss: Tensor
    gradient: Tree
    terms: Tree  # the parts of the last Q_m, by name
    data: Tensor  # (M,): the data term before each step
    adapted: Tree  # lambda_M


def unrolled(problem: TwoLevelProblem, theta: Tree) -> MetaGradient:
    """Reverse over reverse through one graph of all steps."""
    return _one_graph(problem, theta, create_graph=True)


def first_order(problem: TwoLevelProblem, theta: Tree) -> MetaGradient:
    """The data term's gradient is taken for a constant: no second derivative of the network. Not exact."""
    return _one_graph(problem, theta, create_graph=False)


def checkpointed(problem: TwoLevelProblem, theta: Tree) -> MetaGradient:
    """Reverse over reverse, recomputing one step at a time from its stored lambda_m."""

    def pull_back(m: int, adapted: Tree, adjoint: Tree) -> Pair:
        adapted_, theta_ = _leaves(adapted), _leaves(theta)
        updated = differentiable_step(problem, adapted_, theta_, m)
        to_adapted, to_theta = _vjp(updated, adjoint, adapted_, theta_)
        return to_adapted, to_theta

    return _adjoint_recursion(problem, theta, pull_back)


def mixed(problem: TwoLevelProblem, theta: Tree) -> MetaGradient:
    """Forward over reverse: the Hessian-vector product is the directional derivative of the gradient."""
    read = problem.read_by_data(theta)

    def pull_back(m: int, adapted: Tree, adjoint: Tree) -> Pair:
        def gradients(adapted: Tree) -> Pair:
            return torch.func.grad(lambda a, r: problem.data(a, theta | r, m), argnums=(0, 1))(adapted, read)

        def pull_back_update(gradient: Tree) -> Trees:
            adapted_, gradient_, theta_ = _leaves(adapted), _leaves(gradient), _leaves(theta)
            return _vjp(problem.update(adapted_, gradient_, theta_, m), adjoint, adapted_, gradient_, theta_)

        # u_g depends on g only where U is nonlinear in it; elsewhere any g gives the same direction.
        guess = gradients(adapted)[0] if problem.update_is_nonlinear else _zeros(adapted)
        direction = pull_back_update(guess)[1]
        primal, tangent = torch.func.jvp(gradients, (adapted,), (direction,))[:2]
        u_adapted, _, u_theta = pull_back_update(primal[0])
        return _add(u_adapted, tangent[0]), _add(u_theta, tangent[1])

    return _adjoint_recursion(problem, theta, pull_back)


MODES: dict[str, Callable[[TwoLevelProblem, Tree], MetaGradient]] = {
    "unrolled": unrolled,
    "checkpointed": checkpointed,
    "mixed": mixed,
    "first_order": first_order,
}


def run_inner_loop(
    problem: TwoLevelProblem, theta: Tree, keep: Callable[[Tree], None] = lambda _: None
) -> tuple[Tree, Tensor]:
    """lambda_M and the data terms (M,), without any graph; `keep` sees each lambda_m, m < M, before its step."""
    theta = {name: leaf.detach() for name, leaf in theta.items()}
    adapted, data = problem.start(theta), []
    for m in range(problem.steps):
        keep(adapted)
        adapted_ = _leaves(adapted)
        loss = problem.data(adapted_, theta, m)
        gradient = _grad(loss, adapted_)
        data.append(loss.detach())
        with torch.no_grad():
            adapted = problem.update(adapted, gradient, theta, m)
    return adapted, torch.stack(data) if data else torch.zeros(0)


def differentiable_step(problem: TwoLevelProblem, adapted: Tree, theta: Tree, m: int) -> Tree:
    """lambda_{m+1} with the graph that leads to it from the leaves lambda_m and theta."""
    gradient = _grad(problem.data(adapted, theta, m), adapted, create_graph=True)
    return problem.update(adapted, gradient, theta, m)


def _one_graph(problem: TwoLevelProblem, theta: Tree, *, create_graph: bool) -> MetaGradient:
    theta_ = _leaves(theta)
    adapted = problem.start(theta_)
    loss, data = torch.zeros(()), []
    terms: Tree = {}
    for m in range(problem.steps + 1):
        if weight := problem.outer_weights.get(m, 0.0):
            outer, terms = problem.outer(adapted, theta_, m)
            loss = loss + weight * outer
        if m < problem.steps:
            # The first-order step differentiates at a detached copy, so that the network's graph is freed at once.
            at = adapted if create_graph else _leaves(adapted)
            term = problem.data(at, theta_ if create_graph else theta, m)
            gradient = _grad(term, at, create_graph=create_graph)
            data.append(term.detach())
            adapted = problem.update(adapted, gradient, theta_, m)
    return MetaGradient(
        loss=loss.detach(),
        gradient=_grad(loss, theta_),
        terms=_detached(terms),
        data=torch.stack(data) if data else torch.zeros(0),
        adapted=_detached(adapted),
    )


def _adjoint_recursion(
    problem: TwoLevelProblem, theta: Tree, pull_back: Callable[[int, Tree, Tree], Pair]
) -> MetaGradient:
    """Forward, then backward: `pull_back(m, lambda_m, a_{m+1})` is step m's part of a_m and dJ/dtheta."""
    stored: list[Tree] = []
    adapted, data = run_inner_loop(problem, theta, keep=stored.append)
    stored.append(adapted)
    loss = torch.zeros(())
    terms: Tree = {}
    adjoint, gradient = _zeros(adapted), _zeros(theta)
    for m in range(problem.steps, -1, -1):
        at = stored.pop()
        if m < problem.steps:
            adjoint, share = pull_back(m, at, adjoint)
            gradient = _add(gradient, share)
        if weight := problem.outer_weights.get(m, 0.0):
            adapted_, theta_ = _leaves(at), _leaves(theta)
            outer, parts = problem.outer(adapted_, theta_, m)
            terms = terms or _detached(parts)
            loss = loss + weight * outer.detach()
            to_adapted, to_theta = _vjp({"": weight * outer}, {"": torch.ones_like(outer)}, adapted_, theta_)
            adjoint, gradient = _add(adjoint, to_adapted), _add(gradient, to_theta)
    theta_ = _leaves(theta)
    (through_start,) = _vjp(problem.start(theta_), adjoint, theta_)
    return MetaGradient(loss, _add(gradient, through_start), terms, data, adapted)


def _grad(value: Tensor, at: Tree, *, create_graph: bool = False) -> Tree:
    gradients = torch.autograd.grad(
        value, list(at.values()), create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return dict(zip(at, gradients, strict=True))


def _vjp(outputs: Tree, cotangent: Tree, *inputs: Tree) -> tuple[Tree, ...]:
    """The cotangent pulled back to each tree of inputs; outputs that depend on none of them contribute nothing."""
    names = [name for name, leaf in outputs.items() if leaf.requires_grad]
    gradients = iter(
        torch.autograd.grad(
            [outputs[name] for name in names],
            [leaf for tree in inputs for leaf in tree.values()],
            [cotangent[name] for name in names],
            allow_unused=True,
            materialize_grads=True,
        )
    )
    return tuple({name: next(gradients) for name in tree} for tree in inputs)


def _leaves(tree: Tree) -> Tree:
    return {name: leaf.detach().requires_grad_() for name, leaf in tree.items()}


def _detached(tree: Tree) -> Tree:
    return {name: leaf.detach() for name, leaf in tree.items()}


def _zeros(tree: Tree) -> Tree:
    return {name: torch.zeros_like(leaf) for name, leaf in tree.items()}


def _add(a: Tree, b: Tree) -> Tree:
    """a + b, where b may lack some of a's names."""
    return {name: leaf + b[name] if name in b else leaf for name, leaf in a.items()}
