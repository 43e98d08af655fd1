"""The meta-gradient's time and memory beside an ABML step on `higher`: same U-Net, same noise, same machine, one run.

    python tests/benchmarks/bench_core.py                   a CPU: 84 thousand weights, 64x64 pixels
    python tests/benchmarks/bench_core.py --device cuda     a GPU: 0.5 million at 64x64 and 8 million at 128x128, in
                                                            float32, TF32 and bfloat16, eager and as one CUDA graph

Before anything is timed, every method's float64 gradient is compared with the peer's. A method is a mode of the
meta-gradient, with an execution after a slash where it is not eager (`unrolled/compile`).

On a CPU each row runs in a process of its own, so that its peak memory is its own: the resident set's high-water mark
above what it was before the first step. CPU time is the process's own, so that a busy machine does not matter. On a GPU
the rows follow each other in one process, by wall time, with the allocator's peak. The first call (which compiles or
records) is timed apart where there are more. The peer is what public ABML code does: weights sampled in the forward
pass, the KL differentiated by autograd, `higher` keeping the whole inner loop's graph.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from core.bayes.gaussian import Tree, standard_normal
from core.bayes.likelihood import GaussianLikelihood
from core.bayes.unet import UNet
from core.config import InnerConfig, NetworkConfig, TrainConfig
from core.meta.inner_loop import seeded
from core.meta.learner import Learner
from core.meta.precision import precision

FRAMES, LEADS, RATE, LOG_STD = 4, 4, 0.01, -4.5
SIZES = {  # the network, the side of a window in pixels
    "84k": (NetworkConfig(width=12, depth=2), 64),
    "0.5M": (NetworkConfig(width=30, depth=2), 64),
    "8M": (NetworkConfig(width=58, depth=3, max_width=512), 128),
}
MODES = ["auto", "unrolled", "checkpointed", "mixed"]
DEFAULTS = {  # sizes, methods, precisions
    "cpu": (["84k"], ["higher", *MODES], ["float32"]),
    "cuda": (
        ["0.5M", "8M"],
        ["higher", *MODES, *(f"{mode}/cuda_graph" for mode in MODES[1:])],
        ["float32", "tf32", "bf16"],
    ),
}
Gradient = Callable[[], Tree]


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


def peer_step(arguments: argparse.Namespace) -> Gradient:
    """One meta-gradient with `higher`, in nats per pixel like ours, from the noise that ours draws."""
    import higher

    network, batch = problem(arguments)
    model = Sampled(network)
    device = torch.device(arguments.device)
    noise = GaussianLikelihood(LEADS).initial()["log_std"].to(batch.query.x).requires_grad_()
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    prior = dict(model.named_parameters())

    def nats(functional, windows, draw):
        like = dict(zip(model.names, model.mean, strict=True))
        eps = standard_normal(like, seeded(device, "0 0 0", draw))
        log_std = noise[:, None, None]
        error = (windows.y[0] - functional(windows.x[0], [leaf[0] for leaf in eps.values()])) * torch.exp(-log_std)
        return (0.5 * error.square() + log_std).mean()

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
        higher_loop = higher.innerloop_ctx(model, optimiser, copy_initial_weights=False)
        with precision(arguments.precision, device), higher_loop as (functional, inner):
            for m in range(arguments.inner):
                loss = nats(functional, batch.support, f"inner {m}") + kl(functional, batch.support.y[0].numel())
                inner.step(loss)
            loss = nats(functional, batch.query, f"outer {arguments.inner} 0")
            loss = loss + kl(functional, batch.query.y[0].numel())
            gradient = torch.autograd.grad(loss, [*model.parameters(), noise])
        parts = [f"{part}/{name}" for part in ("mean", "log_std") for name in model.names]
        return dict(zip([*parts, "noise/log_std"], gradient, strict=True))

    return step


def our_step(arguments: argparse.Namespace) -> Gradient:
    network, batch = problem(arguments)
    mode, _, execution = arguments.method.partition("/")
    inner = InnerConfig(steps=arguments.inner, rate=RATE, learn_rates="no")
    kind = "float32" if arguments.precision == "float64" else arguments.precision  # the tensors are float64 already
    config = TrainConfig(inner=inner, gradient=mode, execution=execution or "eager", precision=kind)
    everything = [name for name, _ in network.named_parameters()]  # as the peer: every weight is Bayesian
    learner = Learner(network, GaussianLikelihood(LEADS), config, bayesian=everything)
    state = learner.init_state()
    return lambda: learner.gradient(state, batch, seed=0)[0]


def problem(arguments: argparse.Namespace):
    torch.manual_seed(0)
    config, side = SIZES[arguments.size]
    like = dict(device=arguments.device, dtype=torch.float64 if arguments.precision == "float64" else torch.float32)
    network, n = UNet(config, FRAMES, LEADS, 1).to(**like), arguments.windows
    nn.init.normal_(network.head.weight, std=0.05)  # as after some training: no gradient vanishes

    def windows():
        x = torch.randn(1, n, FRAMES + 1, side, side).to(**like)
        y = torch.randn(1, n, LEADS, side, side).to(**like)
        return SimpleNamespace(x=x, y=y, mask=torch.ones_like(y, dtype=torch.bool))

    return network, SimpleNamespace(support=windows(), query=windows(), ids=(0,))


def step_of(arguments: argparse.Namespace) -> Gradient:
    return (peer_step if arguments.method == "higher" else our_step)(arguments)


def worst_difference(arguments: argparse.Namespace) -> dict[str, float]:
    """The norm of the difference between this method's gradient and the peer's in float64, relative to the peer's."""
    arguments.precision = "float64"
    found = step_of(arguments)()
    arguments.method = "higher"
    expected = step_of(arguments)()
    difference = torch.cat([(found[name] - leaf).flatten() for name, leaf in expected.items()])
    return {"difference": float(difference.norm() / torch.cat([leaf.flatten() for leaf in expected.values()]).norm())}


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak extra bytes of one meta-gradient."""
    on_gpu = arguments.device != "cpu"
    if not on_gpu:
        torch.set_num_threads(1)
    step = step_of(arguments)
    clock = time.perf_counter if on_gpu else time.process_time

    def run() -> float:
        start = clock()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    before = torch.cuda.memory_allocated() if on_gpu else resident_bytes("VmRSS")
    first = run()
    if on_gpu:
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        peak = resident_bytes("VmHWM")
    seconds = min((run() for _ in range(arguments.repeats - 1)), default=first)
    if on_gpu and arguments.repeats > 1 and not arguments.method.endswith("graph"):
        peak = torch.cuda.max_memory_allocated()  # without what the first call's choice of kernels took
    return {"first": first, "seconds": seconds, "bytes": peak - before}


def resident_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def found_by(arguments: argparse.Namespace, action: str, **settings: object) -> dict[str, float] | str:
    """What `action` finds with these settings, or the last line of what it says: here on a GPU, else in a process."""
    if arguments.device == "cpu":
        return apart(action, **settings)
    try:
        return ACTIONS[action](argparse.Namespace(**vars(arguments) | settings))
    except Exception as error:  # a row that fails is a line of the table
        return (str(error).splitlines() or [type(error).__name__])[0][:80]
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def apart(action: str, **settings: object) -> dict[str, float] | str:
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, *sys.argv[1:], "--action", action, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return json.loads(done.stdout)


def table(arguments: argparse.Namespace, size: str, kind: str) -> None:
    card = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(f"\n{size} weights, {SIZES[size][1]}x{SIZES[size][1]} pixels, {kind}, {card}")
    print(f"{'method':>24} {'M':>3} {'first':>8} {'seconds':>8} {'x peer':>7} {'extra MB':>9} {'x peer':>7}")
    for inner in arguments.steps:
        peer = None
        for method in arguments.methods:
            found = found_by(arguments, "measure", method=method, inner=inner, size=size, precision=kind)
            if isinstance(found, str):
                print(f"{method:>24} {inner:>3} {found}", flush=True)
                continue
            peer = peer or found
            print(f"{method:>24} {inner:>3} {found['first']:>8.3f} {found['seconds']:>8.3f} "
                  f"{found['seconds'] / peer['seconds']:>7.2f} {found['bytes'] / 1e6:>9.0f} "
                  f"{found['bytes'] / peer['bytes']:>7.2f}", flush=True)  # fmt: skip


ACTIONS = {"measure": measure, "difference": worst_difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=DEFAULTS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--precisions", nargs="+", choices=["float32", "tf32", "bf16"], help="of all, the peer too")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--no-proof", action="store_true", help="do not compare float64 gradients first")
    for internal in ("--action", "--method", "--size", "--precision"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--inner", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.action:
        print(json.dumps(ACTIONS[arguments.action](arguments)))
        return
    sizes, methods, precisions = DEFAULTS[arguments.device]
    arguments.methods = arguments.methods or methods
    for method in [] if arguments.no_proof else arguments.methods[1:]:
        found = found_by(arguments, "difference", method=method, inner=3, size=(arguments.sizes or sizes)[0])
        said = found if isinstance(found, str) else f"{found['difference']:.1e}"
        print(f"float64 gradient, M = 3, {method}: relative difference from the peer's {said}", flush=True)
    for size in arguments.sizes or sizes:
        for kind in arguments.precisions or precisions:
            table(arguments, size, kind)


if __name__ == "__main__":
    main()
