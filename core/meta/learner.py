"""The training state and one meta-step, for `abml`, `maml` and `pooled`.

The three are one code path. `maml` has no weight noise and no KL: theta has no `log_std/*`. `pooled` has no inner steps
either and learns from support and query alike; fine-tuning is `posterior(..., steps=n)` of it.
"""

from collections.abc import Callable, Collection, Sequence
from copy import copy
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from core.bayes.gaussian import Tree, bayesian_names, branch, graft
from core.bayes.likelihood import Likelihood, Predictive
from core.bayes.perturbation import Choice, Perturbation
from core.config import TrainConfig
from core.meta.budget import fastest_exact
from core.meta.checks import (
    DivergedError,
    Examples,
    buffers_of,
    check_buffers,
    check_examples,
    check_network,
    first_not_finite,
)
from core.meta.execution import Executor
from core.meta.forward_mode import explain
from core.meta.inner_loop import BayesianEpisode, OuterTerms, adapt, check_finite, initial_log_rates, preconditioned
from core.meta.meta_gradient import MetaGradient
from core.meta.precision import Precision, precision
from core.meta.sampler import sampler
from core.meta.stacked import StackedEpisodes
from core.meta.state import BETAS, LearnerState, Posterior, adam_step


@runtime_checkable
class Windows(Protocol):
    """A stack of sets: x (E, N, ...), y (E, N, ...), mask like y."""

    @property
    def x(self) -> Tensor: ...

    @property
    def y(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...


@runtime_checkable
class Episodes(Protocol):
    """A meta-batch of E episodes; an episode's noise is a function of its id."""

    @property
    def support(self) -> Windows: ...

    @property
    def query(self) -> Windows: ...

    @property
    def ids(self) -> Sequence[int]: ...


class Learner:
    """A way to train a network; it holds no training state, so that state can be saved, split and compared.

    `bayesian` names the parameters that get a distribution (default: all but norm affines), `perturbation` chooses how
    each layer's noise is drawn (default: the config's one way for all).

    The trap: a functional call swaps the network's parameters in place while it runs, so a learner and its network
    belong to one thread at a time.
    """

    def __init__(
        self,
        network: nn.Module,
        likelihood: Likelihood,
        config: TrainConfig,
        *,
        bayesian: Collection[str] | None = None,
        perturbation: Choice | None = None,
    ) -> None:
        check_network(network)
        self.network, self.likelihood, self.config = network, likelihood, config
        self.bayesian = bayesian_names(network) if bayesian is None else frozenset(bayesian)
        if unknown := self.bayesian - {name for name, _ in network.named_parameters()}:
            raise ValueError(f"not parameters of the network: {sorted(unknown)}")
        self.stochastic = config.learner == "abml"
        self.inner, self.kl_weight = config.inner, config.kl_weight
        if config.learner != "abml":
            self.inner, self.kl_weight = config.inner.model_copy(update={"kl_weight": 0.0, "samples": 1}), 0.0
        if config.learner == "pooled":
            self.inner = self.inner.model_copy(update={"steps": 0, "learn_rates": "no"})
        self.on_support = config.learner == "pooled" or config.outer.objective == "support_and_query"
        choice, inner = perturbation or config.inner.perturbation, config.inner
        self.perturbation = Perturbation(network, choice, antithetic=inner.antithetic, batched=inner.batch_samples)
        self._execute = Executor(config.execution)
        self._fastest: dict[tuple[torch.Size, torch.Size], str] = {}

    def with_gradient(self, mode: str) -> "Learner":
        """The same learner, differentiating in another way; both share the network, so one may be at work."""
        return self._with(gradient=mode)

    def with_precision(self, name: Precision) -> "Learner":
        """The same learner, in another arithmetic; both share the network, so one may be at work."""
        return self._with(precision=name)

    def _with(self, **changes: str) -> "Learner":
        other = copy(self)
        other.config = self.config.model_copy(update=changes)
        other._execute = Executor(other.config.execution)  # what it has recorded is of the mode and arithmetic before
        return other

    def init_state(self, pooled: LearnerState | None = None) -> LearnerState:
        """A first state: prior means from the network's present weights, or from a pooled run's (MOPED)."""
        weights = {name: leaf.detach().clone() for name, leaf in self.network.named_parameters()}
        noise = {name: leaf.to(next(iter(weights.values()))) for name, leaf in self.likelihood.initial().items()}
        if pooled is not None:
            weights = branch(pooled.theta, "mean") | branch(pooled.theta, "point")
            noise = branch(pooled.theta, "noise")
        mean = {name: leaf for name, leaf in weights.items() if name in self.bayesian}
        theta = graft("mean", mean) | graft("point", {n: leaf for n, leaf in weights.items() if n not in mean})
        if self.stochastic:
            log_std = {n: torch.full_like(leaf, self.config.initial_log_std) for n, leaf in mean.items()}
            theta |= graft("log_std", log_std)
        rates = initial_log_rates(theta, self.inner)
        if pooled is not None and self.inner.precondition:
            debias = 1 - BETAS[1] ** max(pooled.step, 1)
            squares = {name: leaf / debias for name, leaf in pooled.second_moment.items()}
            rates = preconditioned(rates, squares, self.inner.precondition)
        theta |= rates | graft("noise", noise)
        zeros = {name: torch.zeros_like(leaf) for name, leaf in theta.items()}
        return LearnerState(theta, zeros, dict(zeros))

    def gradient(self, state: LearnerState, batch: Episodes, *, seed: int) -> tuple[Tree, Tree]:
        """The meta-gradient and the metrics, each SUMMED over the batch's episodes.

        A sum is what ranks can add up; divide by the whole meta-batch before `apply`. An episode's noise depends on
        (seed, state.step, its id), so splitting a batch changes nothing but the order of that addition.
        """
        gradient = {name: torch.zeros_like(leaf) for name, leaf in state.theta.items()}
        metrics: Tree = {}
        buffers = buffers_of(self.network)
        for problem in self._problems(state, batch, seed):
            result = self._differentiate(state, problem)
            gradient = {name: leaf + result.gradient[name] for name, leaf in gradient.items()}
            seen = {"loss": result.loss, **result.terms}
            if len(result.data):
                gain = result.data[0] - result.data[-1]
                seen |= {f"support_{self.likelihood.score}": result.data[0], "support_improvement": gain}
            metrics = {name: metrics.get(name, 0.0) + value for name, value in seen.items()}
        check_buffers(self.network, buffers)
        return gradient, metrics

    def apply(self, state: LearnerState, gradient: Tree, *, learning_rate: float | None = None) -> LearnerState:
        """One Adam step down `gradient`, the mean over the meta-batch; `DivergedError` rather than a spoilt prior.

        `learning_rate` (default: the configured one) is for a schedule.
        """
        if worst := first_not_finite(gradient):
            raise DivergedError(
                "the meta-gradient is not finite",
                found=f"it in {worst} at step {state.step}",
                mend="lower train.inner.rate or train.learning_rate, or set train.inner.clip",
            )
        outer = self.config.outer
        base = self.config.learning_rate if learning_rate is None else learning_rate
        rates = {
            name: base * (outer.scalar_rate if name.startswith(("noise/", "log_rate/")) else 1.0) for name in gradient
        }
        return adam_step(state, gradient, rates, clip=outer.clip)

    def step(self, state: LearnerState, batch: Episodes, *, seed: int) -> tuple[LearnerState, dict[str, float]]:
        """One whole meta-step in one process; metrics are means over the meta-batch, in the score's units per pixel."""
        gradient, metrics = self.gradient(state, batch, seed=seed)
        count = len(batch.ids)
        state = self.apply(state, {name: leaf / count for name, leaf in gradient.items()})
        return state, {name: float(value) / count for name, value in metrics.items()}

    def posterior(
        self, state: LearnerState, support: Examples, *, steps: int | None = None, seed: int = 0
    ) -> Posterior:
        """Adapt to one support set in `steps` (default: M as configured, 0 for `pooled`); no windows give the prior."""
        check_examples(support, "support")
        inner = self.inner if steps is None else self.inner.model_copy(update={"steps": steps})
        episode = BayesianEpisode(support, None, self.perturbation, self.likelihood, inner, seed=seed)
        with precision(self.config.precision, support.x.device):
            adapted, data = adapt(episode, state.theta)
        tree = {name: leaf.detach() for name, leaf in (state.theta | adapted).items()}
        return Posterior(weights_of(tree), branch(tree, "log_std"), branch(tree, "noise"), data)

    def predict(self, posterior: Posterior, x: Tensor, n_samples: int, generator: torch.Generator) -> Predictive:
        """The predictive mixture's components for x (N, ...): mean (S, N, ...) and std that broadcasts to it.

        Each component is one explicit draw of all the weights, shared by the N windows and by every pixel.
        """
        return self.sampler(posterior, n_samples, generator)(x)

    def sampler(
        self, posterior: Posterior, n_samples: int, generator: torch.Generator
    ) -> Callable[[Tensor], Predictive]:
        """`predict` for any number of x with the same draws, made once."""
        return sampler(self.network, self.likelihood, self.config.precision, posterior, n_samples, generator)

    def mode(self, state: LearnerState, support: Examples, query: Examples) -> str:
        """How the next meta-gradient is taken: for `auto`, what the memory free when first asked allows these shapes.

        All exact modes agree but for rounding, so a run that must repeat its bits keeps the answer and configures it.
        """
        if state.step < self.config.outer.first_order_steps:
            return "first_order"
        if self.config.gradient != "auto":
            return self.config.gradient
        shapes = (support.x.shape, query.x.shape)
        if shapes not in self._fastest:
            at_once = self.config.meta_batch if self.config.execution == "stacked" else 1
            self._fastest[shapes] = fastest_exact(self._episode(state, support, query, seed=""), state.theta, at_once)
        return self._fastest[shapes]

    def _episode(self, state: LearnerState, support: Examples, query: Examples, seed: str) -> BayesianEpisode:
        outer = OuterTerms(
            self.config.samples if self.stochastic else 1,
            self.kl_weight,
            self.on_support,
            self._outer_weights(state.step),
            self.config.outer.hyper_prior,
        )
        return BayesianEpisode(support, query, self.perturbation, self.likelihood, self.inner, outer, seed)

    def _problems(
        self, state: LearnerState, batch: Episodes, seed: int
    ) -> list[BayesianEpisode] | list[StackedEpisodes]:
        """The batch's episodes, checked; or all of them as one, where they are stacked."""
        episodes = []
        for row, identity in enumerate(batch.ids):
            support, query = (Examples(w.x[row], w.y[row], w.mask[row]) for w in (batch.support, batch.query))
            check_examples(support, "support")
            check_examples(query, "query")
            episodes.append(self._episode(state, support, query, f"{seed} {state.step} {identity}"))
        return [StackedEpisodes.of(episodes, state.theta)] if self.config.execution == "stacked" else episodes

    def _differentiate(self, state: LearnerState, problem: BayesianEpisode | StackedEpisodes) -> MetaGradient:
        one = problem.one if isinstance(problem, StackedEpisodes) else problem
        assert one.query is not None
        mode, x = self.mode(state, one.support, one.query), one.support.x
        try:
            with precision(self.config.precision, x.device):
                result = self._execute(mode, problem, state.theta)
        except RuntimeError as error:  # it may be for want of a forward-mode rule
            named = explain(self.network, weights_of(state.theta), x) if mode == "mixed" else None
            raise named or error from error
        check_finite(result.data, {"loss": result.loss}, self.inner.rate)
        return result

    def _outer_weights(self, step: int) -> dict[int, float]:
        """c_m: all on the last inner step, or faded to it from an even spread over steps 1 to M (MAML++)."""
        fade, inner_steps = self.config.outer.multi_step_steps, self.inner.steps
        if step >= fade or inner_steps < 2:
            return {}
        early = (1 - step / fade) / inner_steps
        return {m: early for m in range(1, inner_steps)} | {inner_steps: 1 - early * (inner_steps - 1)}


def weights_of(tree: Tree) -> Tree:
    """The network's parameters at their means, under their own names."""
    return branch(tree, "mean") | branch(tree, "point")
