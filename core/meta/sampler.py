"""Members: explicit draws of all the weights of a posterior, made once and run on any number of inputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.bayes.gaussian import DiagonalGaussian
from core.bayes.likelihood import Likelihood, Predictive
from core.meta.precision import Precision, precision
from core.meta.state import Posterior


def sampler(
    network: nn.Module,
    likelihood: Likelihood,
    arithmetic: Precision,
    posterior: Posterior,
    n_samples: int,
    generator: torch.Generator,
) -> Callable[[Tensor], Predictive]:
    """The function that gives the mixture's components for x (N, ...): mean (S, N, ...) and std that broadcasts to it.

    Each component is one draw of the weights, shared by the N windows, by every pixel and by all calls. A posterior of
    point values has one, repeated.
    """
    q = DiagonalGaussian({name: posterior.mean[name] for name in posterior.log_std}, posterior.log_std)
    with torch.no_grad():
        drawn = q.rsample(generator, n_samples)
    weights = [
        posterior.mean | {name: leaf[s] for name, leaf in drawn.items()} for s in range(n_samples if drawn else 1)
    ]

    @torch.no_grad()
    def predict(x: Tensor) -> Predictive:
        with precision(arithmetic, x.device):
            outputs = torch.stack([functional_call(network, sample, (x,)) for sample in weights])
        mean, std = likelihood.predictive(outputs, posterior.noise)
        return Predictive(mean.expand(n_samples, *mean.shape[1:]), std)

    return predict
