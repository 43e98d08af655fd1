"""From a support set to a posterior: the inner objective, its update rule, and `adapt`.

The adapted tree lambda has the leaves `mean/*` and `log_std/*` of the Bayesian parameters and `point/*` of the others.
theta has the same leaves, at once the prior and the start, besides `noise/*` (the likelihood's parameters) and, where
rates are learned, `log_rate/*`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.bayes.gaussian import DiagonalGaussian, Tree, branch, graft, kl_divergence, kl_gradient
from core.bayes.likelihood import Likelihood
from core.bayes.perturbation import Perturbation
from core.config import InnerConfig
from core.meta.checks import DivergedError, Examples, first_not_finite
from core.meta.meta_gradient import run_inner_loop

ADAPTED = ("mean/", "log_std/", "point/")
HYPER_RATE = 0.01


@dataclass(frozen=True)
class OuterTerms:
    """What the outer loss of an episode is made of."""

    samples: int = 1
    kl_weight: float = 1.0
    on_support: bool = False  # the paper's S and Q together; the default is Q alone
    weights: Mapping[int, float] = field(default_factory=dict)  # m -> c_m; empty: all on the last step
    hyper_prior: bool = False


@dataclass(frozen=True)
class BayesianEpisode:
    """One episode as the two-level problem of `meta_gradient`: ELBO on the support inside, ELBO on the query outside.

    D_m(lambda) = (1/S) sum_s -log p(support | phi_s) / pixels,  phi_s = mean + exp(log_std) eps_{m,s};
    U_m takes one step down D_m + kl_weight KL(q_lambda || p_theta) / pixels;
    Q_m(lambda) = (1/S) sum_s -log p(query | phi_s) / pixels + kl_weight KL(q_lambda || p_theta) / pixels, with the
    outer loop's own S and weight. eps_m is a function of (seed, m) alone, so that evaluating a step again gives the
    same bits; or it is given beforehand as `noise`, by the name of the draw. An empty support has no inner steps: the
    posterior is the prior.
    """

    support: Examples
    query: Examples | None
    perturbation: Perturbation
    likelihood: Likelihood
    inner: InnerConfig
    outer_terms: OuterTerms = OuterTerms()
    seed: int | str = 0
    noise: Mapping[str, Tree] | None = None

    @property
    def steps(self) -> int:
        """M."""
        return self.inner.steps if len(self.support.x) else 0

    @property
    def outer_weights(self) -> Mapping[int, float]:
        """m -> c_m."""
        return self.outer_terms.weights if self.steps and self.outer_terms.weights else {self.steps: 1.0}

    @property
    def update_is_nonlinear(self) -> bool:
        """Whether clipping makes the update a nonlinear function of the data term's gradient."""
        return self.inner.clip > 0

    def start(self, theta: Tree) -> Tree:
        """lambda_0: views of theta's adapted leaves, so that the two can be differentiated apart."""
        kept = ADAPTED if self.inner.adapt_deterministic else ADAPTED[:2]
        return {name: leaf.view_as(leaf) for name, leaf in theta.items() if name.startswith(kept)}

    def read_by_data(self, theta: Tree) -> Tree:
        """The leaves of theta that D_m depends on: the likelihood's, and the point values that are not adapted."""
        prefixes = ("noise/",) if self.inner.adapt_deterministic else ("noise/", "point/")
        return {name: leaf for name, leaf in theta.items() if name.startswith(prefixes)}

    def data(self, adapted: Tree, theta: Tree, m: int) -> Tensor:
        """D_m: the support's loss per pixel."""
        return self._per_pixel(self.support, adapted, theta, f"inner {m}", self.inner.samples)

    def update(self, adapted: Tree, gradient: Tree, theta: Tree, m: int) -> Tree:
        """One step down the inner objective.

        At m = 0 lambda is theta, so the gradient of the KL is zero and stays so as theta moves: it is left out.
        """
        weight = self.inner.kl_weight / self.support.pixels
        direction = dict(gradient)
        if m > 0 and weight:
            pull = kl_gradient(gaussian(adapted), gaussian(theta))
            for name, leaf in (graft("mean", pull.mean) | graft("log_std", pull.log_std)).items():
                direction[name] = direction[name] + weight * leaf
        if self.inner.clip:
            scale = clip_scale(direction, self.inner.clip)
            direction = {name: scale * leaf for name, leaf in direction.items()}
        return {name: leaf - self._rate(theta, name, m) * direction[name] for name, leaf in adapted.items()}

    def outer(self, adapted: Tree, theta: Tree, m: int) -> tuple[Tensor, Tree]:
        """Q_m: loss per pixel of the query (and of the support, if asked) plus the KL over the same pixels."""
        terms, sets = self.outer_terms, self._outer_sets()
        pixels = sum(part.pixels for part in sets)
        losses = [self._per_pixel(p, adapted, theta, f"outer {m} {i}", terms.samples) for i, p in enumerate(sets)]
        data = sum((v * (p.pixels / pixels) for v, p in zip(losses, sets, strict=True)), torch.zeros_like(losses[0]))
        parts = {f"query_{self.likelihood.score}": losses[0], "data": data}
        loss = data
        if branch(adapted, "log_std"):
            parts["kl"] = kl_divergence(gaussian(adapted), gaussian(theta)) / pixels
            loss = loss + terms.kl_weight * parts["kl"]
        if terms.hyper_prior:
            parts["hyper_prior"] = hyper_prior(theta) / pixels
            loss = loss + parts["hyper_prior"]
        return loss, parts

    def _per_pixel(self, examples: Examples, adapted: Tree, theta: Tree, draw: str, samples: int) -> Tensor:
        weights = theta | adapted
        mean = branch(weights, "mean") | branch(weights, "point")
        log_std = branch(weights, "log_std")
        if self.noise is None:
            noise = self._draw(draw, examples, mean, log_std, samples)
        else:
            noise = self.noise[draw] if log_std else {}
        parameters = branch(theta, "noise")
        losses = [
            self.likelihood.loss(output, examples.y, examples.mask, parameters)
            for output in self.perturbation.outputs(mean, log_std, noise, examples.x)
        ]
        return torch.stack(losses).mean() / examples.pixels

    def all_noise(self, theta: Tree) -> dict[str, Tree]:
        """Every draw of this episode by its name: what `noise` takes where nothing may be drawn later."""
        mean, log_std = branch(theta, "mean") | branch(theta, "point"), branch(theta, "log_std")
        inner = [(f"inner {m}", self.support, self.inner.samples) for m in range(self.steps)]
        sets = self._outer_sets() if self.query is not None else []
        outer = [
            (f"outer {m} {i}", examples, self.outer_terms.samples)
            for m in self.outer_weights
            for i, examples in enumerate(sets)
        ]
        return {name: self._draw(name, examples, mean, log_std, n) for name, examples, n in inner + outer}

    def _draw(self, name: str, examples: Examples, mean: Tree, log_std: Tree, samples: int) -> Tree:
        generator = seeded(examples.x.device, self.seed, name)
        return self.perturbation.draw(mean, log_std, examples.x, generator, samples)

    def _outer_sets(self) -> list[Examples]:
        assert self.query is not None
        on_support = self.outer_terms.on_support and len(self.support.x)
        return [self.query, self.support] if on_support else [self.query]

    def _rate(self, theta: Tree, name: str, m: int) -> Tensor | float:
        log_rate = theta.get(f"log_rate/{name}")
        if log_rate is None:
            return self.inner.rate
        if self.inner.learn_rates == "layer_step":
            return log_rate[min(m, len(log_rate) - 1)].exp()  # steps beyond the trained ones use the last rate
        return log_rate.exp()


def adapt(episode: BayesianEpisode, theta: Tree) -> tuple[Tree, Tensor]:
    """The posterior's leaves lambda_M and the support's data term before each step (M,).

    Raises `DivergedError` if a data term or the posterior is not finite.
    """
    adapted, data = run_inner_loop(episode, theta)
    check_finite(data, adapted, episode.inner.rate)
    return adapted, data


def check_finite(data: Tensor, adapted: Tree, rate: float) -> None:
    """Raise `DivergedError`, naming the first bad step; one synchronisation with the device."""
    finite = torch.isfinite(data)
    if not bool(finite.all()):
        step = int((~finite).nonzero()[0])
        raise DivergedError(
            "the inner loop diverged",
            found=f"a data term of {data[step].item()} before step {step} (rate {rate:g})",
            mend="lower train.inner.rate, or set train.inner.clip to bound the length of a step",
        )
    if worst := first_not_finite(adapted):
        raise DivergedError(
            "the inner loop diverged",
            found=f"a posterior that is not finite in {worst} (rate {rate:g})",
            mend="lower train.inner.rate, or set train.inner.clip to bound the length of a step",
        )


def hyper_prior(theta: Tree) -> Tensor:
    """-log p(theta) up to a constant: N(0, 1) on each mean, Gamma(1, 0.01) on each precision (Ravi & Beatson, 2019)."""
    means = [0.5 * leaf.square().sum() for leaf in branch(theta, "mean").values()]
    precisions = [HYPER_RATE * torch.exp(-2 * leaf).sum() for leaf in branch(theta, "log_std").values()]
    return torch.stack(means + precisions).sum()


def gaussian(tree: Tree) -> DiagonalGaussian:
    """The Gaussian part of lambda or of theta."""
    log_std = branch(tree, "log_std")
    mean = branch(tree, "mean")
    return DiagonalGaussian({name: mean[name] for name in log_std}, log_std)


def initial_log_rates(adapted: Tree, inner: InnerConfig) -> Tree:
    """log_rate/* for each adapted leaf, all at log(rate): one number a leaf, one a leaf and step, or one an entry."""
    if inner.learn_rates == "no" or not inner.steps:
        return {}
    shapes = {"layer": lambda _: (), "layer_step": lambda _: (inner.steps,), "entry": lambda leaf: leaf.shape}
    shape = shapes[inner.learn_rates]
    return {f"log_rate/{n}": leaf.new_full(shape(leaf), math.log(inner.rate)) for n, leaf in adapted.items()}


def preconditioned(log_rates: Tree, squares: Tree, limit: float) -> Tree:
    """First log rates of rate / (1 + v / limit), v the mean square of a weight's pooled gradient.

    A network's first and last layers are far stiffer than those between, so that one rate for all is either unstable
    there or of no use elsewhere. `squares` are Adam's second moments, by the leaf's name; a rate of a whole leaf takes
    their mean, and a leaf without any keeps its rate.
    """
    found = {}
    for name, log_rate in log_rates.items():
        square = squares.get(name.removeprefix("log_rate/"))
        if square is None:
            found[name] = log_rate
            continue
        of_rate = square if square.shape == log_rate.shape else square.mean()
        found[name] = log_rate - torch.log1p(of_rate / limit)
    return found


def clip_scale(direction: Tree, limit: float) -> Tensor:
    """The factor that bounds the norm over all leaves by `limit`: exactly 1, with zero derivative, where it is less."""
    squared = torch.stack([leaf.square().sum() for leaf in direction.values()]).sum()
    return torch.sqrt(limit**2 / squared.clamp(min=limit**2))


def seeded(device: torch.device, *key: object) -> torch.Generator:
    """A generator that is a function of `key` alone, the same on every machine and Python version."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
