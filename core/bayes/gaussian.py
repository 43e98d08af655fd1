"""A fully factorised Gaussian over a named tree of parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Tree = dict[str, Tensor]

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag exp(log_std)^2), leaf by leaf; `mean` and `log_std` have the same names and shapes."""

    mean: Tree
    log_std: Tree

    def __post_init__(self) -> None:
        if self.mean.keys() != self.log_std.keys():
            odd = sorted(self.mean.keys() ^ self.log_std.keys())
            raise ValueError(f"mean and log_std need the same names; only in one of them: {odd}")

    def rsample(self, generator: torch.Generator, samples: int = 1, *, antithetic: bool = False) -> Tree:
        """Reparametrised samples mean + exp(log_std) * eps, with a leading axis of `samples` on each leaf."""
        noise = standard_normal(self.mean, generator, samples, antithetic=antithetic)
        return {name: mean + self.log_std[name].exp() * noise[name] for name, mean in self.mean.items()}


def standard_normal(like: Tree, generator: torch.Generator, samples: int = 1, *, antithetic: bool = False) -> Tree:
    """Draw eps of shape (samples, ...) for each leaf; antithetic pairs are (eps_s, -eps_s) half the samples apart.

    Pairs leave every odd moment of the sample exact, so the part of a gradient that is linear in eps cancels.
    An odd count leaves one sample without its mirror image.
    """
    drawn = samples - samples // 2 if antithetic else samples
    noise = {}
    for name, leaf in like.items():
        eps = torch.randn((drawn, *leaf.shape), generator=generator, dtype=leaf.dtype, device=leaf.device)
        noise[name] = torch.cat((eps, -eps[: samples // 2])) if antithetic else eps
    return noise


def kl_divergence(q: DiagonalGaussian, p: DiagonalGaussian) -> Tensor:
    """KL(q || p) in nats, summed over all leaves.

    With d = log_std_q - log_std_p it is sum 1/2 [ exp(2 d) - 1 - 2 d + (mean_q - mean_p)^2 / std_p^2 ];
    `expm1` keeps it exact where q is close to p, as it always is early in the inner loop.
    """
    _same_names(q, p)
    terms = []
    for name, mean in q.mean.items():
        d = q.log_std[name] - p.log_std[name]
        shift = (mean - p.mean[name]) * torch.exp(-p.log_std[name])
        terms.append(0.5 * (torch.expm1(2 * d) - 2 * d + shift.square()).sum())
    return torch.stack(terms).sum() if terms else torch.zeros(())


def kl_gradient(q: DiagonalGaussian, p: DiagonalGaussian) -> DiagonalGaussian:
    """The gradient of KL(q || p) with respect to q: (mean_q - mean_p) / std_p^2 and exp(2 d) - 1 (see above)."""
    _same_names(q, p)
    return DiagonalGaussian(
        mean={n: (m - p.mean[n]) * torch.exp(-2 * p.log_std[n]) for n, m in q.mean.items()},
        log_std={n: torch.expm1(2 * (s - p.log_std[n])) for n, s in q.log_std.items()},
    )


def bayesian_names(network: nn.Module, select: Callable[[str, nn.Module], bool] | None = None) -> frozenset[str]:
    """The parameters that get a distribution: all but the affine ones of normalisation layers, by default.

    `select(parameter name, module that owns it)` chooses otherwise. A norm's scale multiplies whole feature maps, so
    noise on it costs much and says little; it stays a point value.
    """
    chosen = select or (lambda _, owner: not isinstance(owner, NORMS))
    owners = dict(network.named_modules())
    names = (name for name, _ in network.named_parameters())
    return frozenset(name for name in names if chosen(name, owners[name.rpartition(".")[0]]))


def branch(tree: Tree, prefix: str) -> Tree:
    """The leaves under `prefix/`, without it: {"mean/a": x} -> {"a": x}."""
    start = f"{prefix}/"
    return {name[len(start) :]: leaf for name, leaf in tree.items() if name.startswith(start)}


def graft(prefix: str, tree: Tree) -> Tree:
    """The inverse of `branch`: {"a": x} -> {"mean/a": x}."""
    return {f"{prefix}/{name}": leaf for name, leaf in tree.items()}


def _same_names(q: DiagonalGaussian, p: DiagonalGaussian) -> None:
    if q.mean.keys() != p.mean.keys():
        raise ValueError(f"q and p are over different parameters: {sorted(q.mean.keys() ^ p.mean.keys())}")
