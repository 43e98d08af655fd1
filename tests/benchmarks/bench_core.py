"""The meta-gradient's time and memory beside an ABML step on `higher`: same U-Net, same noise, same machine, one run.

    python tests/benchmarks/bench_core.py [--device cuda] [--execution cuda_graph] [--steps 1 5 10]

Each row runs in a process of its own, so that its peak memory is its own: on a CPU the resident set's high-water mark
above what it was before the first step, on a GPU the allocator's. CPU time is the process's own, so that a busy machine
does not matter. The peer is what public ABML code does: weights sampled in the forward pass, the KL differentiated by
autograd, `higher` keeping the whole inner loop's graph.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.bayes.gaussian import standard_normal
from core.bayes.likelihood import GaussianLikelihood
from core.bayes.unet import UNet
from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.meta.inner_loop import seeded
from core.meta.learner import Learner

FRAMES, LEADS, RATE, LOG_STD = 4, 4, 0.01, -4.5


class Sampled(nn.Module):
    """A mean-field Gaussian over a network's weights, as a module that `higher` can adapt."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.names = [name for name, _ in network.named_parameters()]
        self.network = [network]  # hidden from the module tree: its own parameters are not adapted
        self.mean = nn.ParameterList(nn.Parameter(p.detach().clone()) for p in network.parameters())
        self.log_std = nn.ParameterList(nn.Parameter(torch.full_like(p, LOG_STD)) for p in network.parameters())

    def forward(self, x: torch.Tensor, eps: list[torch.Tensor]) -> torch.Tensor:
        draws = (m + s.exp() * e for m, s, e in zip(self.mean, self.log_std, eps, strict=True))
        return torch.func.functional_call(self.network[0], dict(zip(self.names, draws, strict=True)), (x,))


def peer_step(arguments: argparse.Namespace):
    """One meta-gradient with `higher`, in nats per pixel like ours."""
    import higher

    network, batch = problem(arguments)
    model = Sampled(network)
    noise = torch.full((LEADS, 1, 1), 0.5, device=arguments.device).log().requires_grad_()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    prior = dict(model.named_parameters())

    def nats(functional, windows, draw):
        like = dict(zip(model.names, model.mean, strict=True))
        eps = standard_normal(like, seeded(torch.device(arguments.device), 0, draw))
        error = (windows.y[0] - functional(windows.x[0], [leaf[0] for leaf in eps.values()])) * torch.exp(-noise)
        return (0.5 * error.square() + noise).mean()

    def kl(functional, pixels):
        total = 0.0
        adapted = dict(functional.named_parameters())
        for i in range(len(model.names)):
            q_mean, q_log = adapted[f"mean.{i}"], adapted[f"log_std.{i}"]
            p_mean, p_log = prior[f"mean.{i}"], prior[f"log_std.{i}"]
            ratio = (torch.exp(2 * q_log) + (q_mean - p_mean).square()) * torch.exp(-2 * p_log)
            total = total + (p_log - q_log + 0.5 * ratio - 0.5).sum()
        return total / pixels

    def step():
        with higher.innerloop_ctx(model, optimiser, copy_initial_weights=False) as (functional, inner):
            for m in range(arguments.inner):
                loss = nats(functional, batch.support, f"inner {m}") + kl(functional, batch.support.y[0].numel())
                inner.step(loss)
            loss = nats(functional, batch.query, "outer") + kl(functional, batch.query.y[0].numel())
            return torch.autograd.grad(loss, [*model.parameters(), noise])

    return step


def our_step(arguments: argparse.Namespace):
    network, batch = problem(arguments)
    inner = InnerConfig(steps=arguments.inner, rate=RATE, learn_rates="no")
    config = TrainConfig(
        inner=inner, gradient=arguments.method, execution=arguments.execution, precision=arguments.precision
    )
    everything = [name for name, _ in network.named_parameters()]  # as the peer: every weight is Bayesian
    learner = Learner(network, GaussianLikelihood(LEADS), config, bayesian=everything)
    state = learner.init_state()
    return lambda: learner.gradient(state, batch, seed=0)


def problem(arguments: argparse.Namespace):
    torch.manual_seed(0)
    network = UNet(NetworkConfig(width=arguments.width, depth=arguments.depth), FRAMES, LEADS, 1).to(arguments.device)
    side, n = arguments.side, arguments.windows

    def windows():
        x = torch.randn(1, n, FRAMES + 1, side, side, device=arguments.device)
        y = torch.randn(1, n, LEADS, side, side, device=arguments.device)
        return SimpleNamespace(x=x, y=y, mask=torch.ones_like(y, dtype=torch.bool))

    return network, SimpleNamespace(support=windows(), query=windows(), ids=(0,))


def resident_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak extra bytes of one meta-gradient, the first call apart."""
    on_gpu = arguments.device != "cpu"
    if not on_gpu:
        torch.set_num_threads(1)
    step = (peer_step if arguments.method == "higher" else our_step)(arguments)

    clock = time.perf_counter if on_gpu else time.process_time

    def run() -> float:
        start = clock()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    if on_gpu:
        run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = min(run() for _ in range(arguments.repeats))
        return {"seconds": seconds, "bytes": torch.cuda.max_memory_allocated() - before}
    before = resident_bytes("VmRSS")
    first = run()
    peak = resident_bytes("VmHWM") - before
    return {"seconds": min([first] + [run() for _ in range(arguments.repeats - 1)]), "bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--methods", nargs="+", default=["higher", "auto", "unrolled", "checkpointed", "mixed"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--execution", default="eager", help="of our methods: eager, cuda_graph or compile")
    parser.add_argument("--precision", default="float32", help="of our methods: float32, tf32 or bf16")
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--inner", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments)))
        return
    print(f"{'method':>14} {'M':>3} {'seconds':>8} {'x peer':>7} {'extra MB':>9} {'x peer':>7}")
    for inner in arguments.steps:
        peer = None
        for method in arguments.methods:
            command = [sys.executable, __file__, *sys.argv[1:], "--method", method, "--inner", str(inner)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peer = peer or found
            time_ratio, memory_ratio = found["seconds"] / peer["seconds"], found["bytes"] / peer["bytes"]
            print(f"{method:>14} {inner:>3} {found['seconds']:>8.3f} {time_ratio:>7.2f} "
                  f"{found['bytes'] / 1e6:>9.0f} {memory_ratio:>7.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
