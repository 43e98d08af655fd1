"""Gradient variance of weight sampling, antithetic pairs and Flipout at equal time, on the U-Net with 16 windows.

    python tests/benchmarks/bench_perturbation.py [--draws 24] [--windows 16]

What counts is variance times cost: with twice the time one may average twice the draws. The last column is that product
over weight sampling's. The noise std is the prior's at its start; the windows are smooth random fields.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.bayes.likelihood import GaussianLikelihood
from core.bayes.unet import UNet
from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.meta.checks import Examples
from core.meta.inner_loop import BayesianEpisode
from core.meta.learner import Learner

FRAMES, LEADS = 4, 4
METHODS = {
    "weight": InnerConfig(),
    "weight, vmap of 2": InnerConfig(samples=2, batch_samples=True),
    "antithetic pair": InnerConfig(samples=2, antithetic=True),
    "flipout": InnerConfig(perturbation="flipout"),
    "flipout, antithetic": InnerConfig(perturbation="flipout", samples=2, antithetic=True),
}


def windows(count: int, side: int) -> Examples:
    g = torch.Generator().manual_seed(0)
    field = F.avg_pool2d(torch.randn(count, FRAMES + LEADS, side + 8, side + 8, generator=g), 9, stride=1) * 9
    x = torch.cat((field[:, :FRAMES], torch.ones(count, 1, side, side)), dim=1)
    return Examples(x, field[:, FRAMES:])


def gradients(name: str, examples: Examples, draws: int) -> tuple[torch.Tensor, float]:
    """`draws` gradients of the data term with respect to mean and log_std, and CPU seconds for each."""
    torch.manual_seed(0)
    network = UNet(NetworkConfig(width=8, depth=2), FRAMES, LEADS, 1)
    torch.nn.init.normal_(network.head.weight, std=0.05)
    model = Learner(network, GaussianLikelihood(LEADS), TrainConfig(inner=METHODS[name]))
    theta = {n: leaf.requires_grad_() for n, leaf in model.init_state().theta.items()}
    wanted = [leaf for n, leaf in theta.items() if n.startswith(("mean/", "log_std/"))]
    found, seconds = [], []
    for seed in range(draws):
        episode = BayesianEpisode(examples, None, model.perturbation, model.likelihood, model.inner, seed=seed)
        start = time.process_time()
        parts = torch.autograd.grad(episode.data(episode.start(theta), theta, 0), wanted)
        seconds.append(time.process_time() - start)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found), sorted(seconds)[len(seconds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    examples, reference = windows(arguments.windows, arguments.side), None
    print(f"{'method':>20} {'variance':>10} {'seconds':>8} {'at equal time':>14}")
    for name in METHODS:
        draws, seconds = gradients(name, examples, arguments.draws)
        variance = draws.var(0).sum().item()
        reference = reference or variance * seconds
        print(f"{name:>20} {variance:>10.3g} {seconds:>8.3f} {variance * seconds / reference:>13.2f}x")


if __name__ == "__main__":
    main()
