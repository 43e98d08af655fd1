"""How the randomness of the weights enters the network: one noise tree in, S outputs out."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from core.bayes.gaussian import Tree, standard_normal


class Perturbation:
    """Outputs of a network whose weights are Gaussian, for S Monte Carlo samples."""

    def __init__(self, network: nn.Module, *, antithetic: bool = False) -> None:
        self.network, self.antithetic = network, antithetic

    def draw(self, log_std: Tree, generator: torch.Generator, samples: int) -> Tree:
        """The noise of one evaluation; the same generator state gives the same bits."""
        return standard_normal(log_std, generator, samples, antithetic=self.antithetic)

    def outputs(self, mean: Tree, log_std: Tree, noise: Tree, x: Tensor) -> list[Tensor]:
        """One network output a sample. A parameter without `log_std` is a point value; no noise gives one sample."""
        samples = len(next(iter(noise.values()))) if noise else 1
        std = {name: leaf.exp() for name, leaf in log_std.items()} if noise else {}
        outputs = []
        for s in range(samples):
            weights = {n: leaf + std[n] * noise[n][s] if n in std else leaf for n, leaf in mean.items()}
            outputs.append(functional_call(self.network, weights, (x,)))
        return outputs
