"""How the randomness of the weights enters the network: weight sampling, Flipout, local reparametrisation.

All three give one example's output the right mean and variance; they differ in what the examples of a batch share,
hence in the variance of a batch gradient.

    weight   one draw of the weights for the whole batch: any module, and the only one that is coherent over the batch
    flipout  one draw, multiplied for each example by the outer product of two random sign vectors (Wen et al., ICLR
             2018): y_n = f(x_n; mean) + s_n * f(x_n * r_n; std eps); independent-looking examples for one more call
    local    the noise of a Linear's outputs in place of its weights': y = x mean + sqrt(x^2 std^2) eps (Kingma et al.,
             NeurIPS 2015). On a Conv2d it draws each pixel apart and so loses the correlation between pixels that share
             the weights: an approximation, no ELBO, and done only where a layer is named for it.

Shape suffixes: S weight samples, N examples.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from core.bayes.gaussian import Tree, standard_normal

Method = Literal["weight", "flipout", "local"]
Choice = Method | Callable[[str, nn.Module], Method]

TINY = 1e-16  # keeps a vanishing variance away from the square root's infinite slope


class Call(NamedTuple):
    """How often a layer runs in one forward pass, and the shapes it saw last."""

    times: int
    inputs: torch.Size
    outputs: torch.Size


class Perturbation:
    """Outputs of a network with Gaussian weights, for S Monte Carlo samples.

    `choice` is one method for all layers, or a function of (layer name, layer). A layer that its method does not know
    (flipout: Linear and Conv2d; local: Linear, and Conv2d only by a function), that has no noise, or that runs more
    than once in a forward pass is weight-sampled. `batched` runs all samples in one vmap, a loop otherwise: fewer and
    larger calls, with convolutions turned into grouped ones, which on a CPU is no faster.
    """

    def __init__(
        self, network: nn.Module, choice: Choice = "weight", *, antithetic: bool = False, batched: bool = False
    ) -> None:
        self.network, self.antithetic, self.batched = network, antithetic, batched
        self._methods = dict(_methods(network, choice))
        self._calls: dict[torch.Size, Mapping[str, Call]] = {}

    def draw(self, mean: Tree, log_std: Tree, x: Tensor, generator: torch.Generator, samples: int) -> Tree:
        """The noise of one evaluation, (S, ...) each; the same generator state gives the same bits.

        Leaves are named for the parameter they perturb, or `layer:in`, `layer:out` (Flipout's signs) and `layer:local`.
        """
        if not log_std:
            return {}
        layers = self._active(mean, log_std, x)
        local = {f"{layer}.{part}" for layer, method in layers.items() if method == "local" for part in PARTS}
        noise = standard_normal(
            {name: leaf for name, leaf in log_std.items() if name not in local},
            generator,
            samples,
            antithetic=self.antithetic,
        )
        for layer, method in layers.items():
            call = self._calls[x.shape][layer]
            if method == "local":
                like = {f"{layer}:local": x.new_empty(call.outputs)}
                noise |= standard_normal(like, generator, samples, antithetic=self.antithetic)
                continue
            axis = _channel_axis(self.network.get_submodule(layer))
            for side, shape in (("in", call.inputs), ("out", call.outputs)):
                signs = torch.empty(samples, shape[0], shape[axis], dtype=x.dtype, device=x.device)
                noise[f"{layer}:{side}"] = signs.bernoulli_(generator=generator).mul_(2).sub_(1)
        return noise

    def outputs(self, mean: Tree, log_std: Tree, noise: Tree, x: Tensor) -> Tensor:
        """Network outputs (S, N, ...). A parameter without `log_std` is a point value; no noise gives one sample."""
        if not noise:
            return functional_call(self.network, mean, (x,))[None]
        std = {name: leaf.exp() for name, leaf in log_std.items()}
        one = partial(self._output, mean, std, self._active(mean, log_std, x), x=x)
        samples = len(next(iter(noise.values())))
        if self.batched and samples > 1:
            return vmap(one)(noise)
        return torch.stack([one({name: leaf[s] for name, leaf in noise.items()}) for s in range(samples)])

    def _output(self, mean: Tree, std: Tree, layers: Mapping[str, Method], noise: Tree, *, x: Tensor) -> Tensor:
        by_layer = {f"{layer}.{part}" for layer in layers for part in PARTS}
        weights = {
            name: leaf + std[name] * noise[name] if name in std and name not in by_layer else leaf
            for name, leaf in mean.items()
        }
        with ExitStack() as hooks:
            for layer, method in layers.items():
                perturb = _flipout if method == "flipout" else _local
                hook = partial(perturb, layer, std, noise)
                hooks.enter_context(_hooked(self.network.get_submodule(layer), hook))
            return functional_call(self.network, weights, (x,))

    def _active(self, mean: Tree, log_std: Tree, x: Tensor) -> dict[str, Method]:
        """The layers that are perturbed by more than their weights, for inputs like x."""
        if not self._methods:
            return {}
        if x.shape not in self._calls:
            self._calls[x.shape] = self._survey(mean, x)
        calls = self._calls[x.shape]
        return {
            layer: method
            for layer, method in self._methods.items()
            if f"{layer}.weight" in log_std and layer in calls and calls[layer].times == 1
        }

    @torch.no_grad()
    def _survey(self, mean: Tree, x: Tensor) -> Mapping[str, Call]:
        calls: dict[str, Call] = {}

        def note(layer: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen = calls[layer].times if layer in calls else 0
            calls[layer] = Call(seen + 1, inputs[0].shape, output.shape)

        with ExitStack() as hooks:
            for layer in self._methods:
                hooks.enter_context(_hooked(self.network.get_submodule(layer), partial(note, layer)))
            weights = {name: torch.zeros_like(leaf) for name, leaf in mean.items()}
            functional_call(self.network, weights, (torch.zeros(x.shape, dtype=x.dtype, device=x.device),))
        return calls


PARTS = ("weight", "bias")


def _flipout(
    layer: str, std: Tree, noise: Tree, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    signs_in, signs_out = noise[f"{layer}:in"], noise[f"{layer}:out"]
    flipped = inputs[0] * _spread(signs_in, inputs[0], module)
    change = _apply(module, flipped, std[f"{layer}.weight"] * noise[f"{layer}.weight"])
    if f"{layer}.bias" in std:
        change = change + _along_channels(std[f"{layer}.bias"] * noise[f"{layer}.bias"], module)
    return output + change * _spread(signs_out, output, module)


def _local(layer: str, std: Tree, noise: Tree, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    variance = _apply(module, inputs[0].square(), std[f"{layer}.weight"].square())
    if f"{layer}.bias" in std:
        variance = variance + _along_channels(std[f"{layer}.bias"].square(), module)
    return output + torch.sqrt(variance + TINY) * noise[f"{layer}:local"]


def _apply(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's linear map with another weight and no bias, padding mode included."""
    if isinstance(module, nn.Conv2d):
        return module._conv_forward(x, weight, None)
    return F.linear(x, weight)


def _spread(signs: Tensor, like: Tensor, module: nn.Module) -> Tensor:
    """Signs (N, C) shaped to multiply a layer's input or output."""
    n, channels = signs.shape
    middle = [1] * (like.ndim - 2)
    return signs.reshape(n, channels, *middle) if isinstance(module, nn.Conv2d) else signs.reshape(n, *middle, channels)


def _along_channels(values: Tensor, module: nn.Module) -> Tensor:
    return values[:, None, None] if isinstance(module, nn.Conv2d) else values


def _channel_axis(module: nn.Module) -> int:
    return 1 if isinstance(module, nn.Conv2d) else -1


@contextmanager
def _hooked(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _methods(network: nn.Module, choice: Choice) -> Iterator[tuple[str, Method]]:
    known: dict[str, tuple[type[nn.Module], ...]] = {
        "flipout": (nn.Linear, nn.Conv2d),
        "local": (nn.Linear, nn.Conv2d) if callable(choice) else (nn.Linear,),
    }
    for name, module in network.named_modules():
        method = choice(name, module) if callable(choice) else choice
        if method != "weight" and type(module) in known[method]:
            yield name, method
