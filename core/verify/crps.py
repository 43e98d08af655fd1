"""The continuous ranked probability score, for an ensemble and for a mixture of Gaussians.

Both are exact, differentiable and elementwise: they return one score per pixel and never average, so that
masks and weights stay with the caller.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_BLOCK = 16_384  # pixels sorted at a time: 20 members then stay in the cache
_PAIR_BLOCK = 8_192  # the same for the pairwise differences of a mixture
_SMALLEST_STD = 1e-12
_NETWORK_MEMBERS = 64


def ensemble_crps(members: Float[Tensor, " S *shape"], y: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Fair CRPS of an ensemble: the unbiased estimate for the distribution that the members were drawn from.

    mean_s |x_s - y| - sum_{s,t} |x_s - x_t| / (2 S (S - 1)), by one sort instead of S^2 differences:
    with x_(1) <= ... <= x_(S), the second term is sum_i (2 i - S - 1) x_(i) / (S (S - 1)).

    Source: Ferro, Q. J. R. Meteorol. Soc. 2014. One member has no spread to correct: its score is |x - y|.
    """
    n = members.shape[0]
    if n == 1:
        return (members[0] - y).abs()
    weight = [(2 * rank - n + 1) / (n * (n - 1)) for rank in range(n)]
    score = []
    for x, t in zip(members.reshape(n, -1).split(_BLOCK, 1), y.reshape(-1).split(_BLOCK), strict=True):
        error, spread = (x - t).abs().mean(0), torch.zeros_like(t)
        for w, ordered in zip(weight, _sorted(x), strict=True):
            spread = torch.add(spread, ordered, alpha=w)
        score.append(error - spread)
    return torch.cat(score).reshape(y.shape)


def _sorted(x_SP: Tensor) -> Sequence[Tensor]:
    """The members in order, pixel by pixel.

    A few dozen are sorted by a network of minima and maxima, which are whole-block operations: several times faster
    than a sort of many short columns.
    """
    if len(x_SP) > _NETWORK_MEMBERS:
        return x_SP.sort(0).values.unbind(0)
    rows = list(x_SP.unbind(0))
    for i, j in merge_exchange(len(rows)):
        rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
    return rows


@lru_cache
def merge_exchange(n: int) -> tuple[tuple[int, int], ...]:
    """Comparators of a sorting network for n values: Batcher, by merge exchange (Knuth, vol. 3, algorithm 5.2.2 M)."""
    top, found = 1 << max((n - 1).bit_length() - 1, 0), []
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            found += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(found)


def mixture_crps(
    means: Float[Tensor, " S *shape"], std: Float[Tensor, "..."], y: Float[Tensor, " *shape"]
) -> Float[Tensor, " *shape"]:
    """CRPS of the equal mixture of N(means_s, std_s^2), in closed form.

    mean_s A(y - m_s, v_s) - 1/2 mean_{s,t} A(m_s - m_t, v_s + v_t), with
    A(m, v) = E|N(m, v)| = sqrt(v) g(m / sqrt(v)) and g(z) = 2 phi(z) + z erf(z / sqrt 2).
    `std` broadcasts to `means`. Work is O(S^2) per pixel, memory O(S) per pixel of one block; of the S^2 pairs those
    that differ in order alone are taken once.

    Source: Grimit et al., Q. J. R. Meteorol. Soc. 2006.
    """
    n, shape = means.shape[0], y.shape
    own = std.ndim == means.ndim and std.shape[0] > 1
    shared = std[0] if std.ndim == means.ndim else std
    std_RP = (std.expand(means.shape) if own else shared.expand(shape)[None]).reshape(n if own else 1, -1)
    parts = (
        _mixture_block(m, s.clamp_min(_SMALLEST_STD), t)
        for m, s, t in zip(
            means.reshape(n, -1).split(_PAIR_BLOCK, 1),
            std_RP.split(_PAIR_BLOCK, 1),
            y.reshape(-1).split(_PAIR_BLOCK),
            strict=True,
        )
    )
    return torch.cat(list(parts)).reshape(shape) if y.numel() else y.clone()


def _mixture_block(means_SP: Tensor, std_RP: Tensor, y_P: Tensor) -> Tensor:
    """The score of a block that fits the cache; R is S, or 1 where the samples share one std.

    Pairs are taken by cyclic shifts of the samples, a few long operations in place of S short ones.
    """
    n = len(means_SP)
    own = len(std_RP) > 1
    variance, means_twice = std_RP.square(), torch.cat([means_SP, means_SP])
    scale = math.sqrt(2) * std_RP
    if own:
        variance = torch.cat([variance, variance])
    pairs = std_RP.sum(0) * ((1 if own else n) / math.sqrt(math.pi))
    for shift in range(1, n // 2 + 1):
        rows = n // 2 if 2 * shift == n else n
        if own:
            scale = (variance[shift : shift + rows] + variance[:rows]).sqrt_()
        pairs = pairs + _mean_size(means_twice[shift : shift + rows] - means_SP[:rows], scale)
    return _mean_size(y_P - means_SP, std_RP) / n - pairs / n**2


def _mean_size(mean_SP: Tensor, std_SP: Tensor) -> Tensor:
    """sum_s E|N(mean_s, std_s^2)| = sum_s std g(z) with z = mean / std.

    g(z) = 2 phi(z) + z erf(z / sqrt 2) is 2 [phi(z) + z Phi(z)] - z, and z Phi(z) is one operation, called gelu.
    """
    z = mean_SP / std_SP
    density = (z * z).mul_(-0.5).exp_()
    return 2 * F.gelu(z).add_(density, alpha=1 / math.sqrt(2 * math.pi)).mul_(std_SP).sum(0) - mean_SP.sum(0)
