"""The meta-gradient as one function of tensors, what records or compiles it, and its arithmetic."""

import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta import execution
from core.meta.checks import Examples
from core.meta.execution import Compiled, CompiledDiffersError, as_function, pack, unpack
from core.meta.inner_loop import BayesianEpisode, OuterTerms
from core.meta.learner import Learner
from core.meta.meta_gradient import MODES
from core.meta.precision import precision
from tests.core.devices import needs_cuda

INNER = InnerConfig(steps=2, rate=0.2, samples=2, perturbation="flipout")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 2, 3, padding=1))


def batch(seed: int = 0, device: str = "cpu") -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)

    def windows():
        x = torch.randn(2, 3, 3, 6, 5, generator=g)
        mask = torch.rand(2, 3, 2, 6, 5, generator=g) > 0.2
        return SimpleNamespace(x=x.to(device), y=(x[:, :, 1:] * 0.7 + 0.3).to(device), mask=mask.to(device))

    return SimpleNamespace(support=windows(), query=windows(), ids=(5, 6))


def learner(device: str = "cpu", **settings) -> Learner:
    config = TrainConfig(**{"inner": INNER, "samples": 2, "initial_log_std": -2, "learning_rate": 0.03, **settings})
    return Learner(network().to(device), GaussianLikelihood(2), config)


@pytest.mark.parametrize("kind", ["abml", "maml"])
@pytest.mark.parametrize("mode", ["unrolled", "checkpointed", "mixed"])
def test_the_function_of_tensors_is_the_meta_gradient_bit_for_bit(mode, kind):
    model = learner(learner=kind)
    theta = model.init_state().theta
    episodes = []
    for seed in (0, 1):
        sets = batch(seed)
        support, query = (Examples(w.x[0], w.y[0], w.mask[0]) for w in (sets.support, sets.query))
        terms = OuterTerms(samples=2, on_support=True, weights={1: 0.5, 2: 0.5})
        parts = (support, query, model.perturbation, model.likelihood, model.inner, terms, f"seed {seed}")
        episodes.append(BayesianEpisode(*parts))
    function = as_function(mode, episodes[0])  # made for one episode, used for another
    for episode in episodes:
        expected = MODES[mode](episode, theta)
        found = unpack(function(pack(episode, theta)))
        assert torch.equal(found.loss, expected.loss)
        assert torch.equal(found.data, expected.data)
        assert found.terms.keys() == expected.terms.keys()
        for name, leaf in expected.gradient.items():
            assert torch.equal(found.gradient[name], leaf), name


@needs_cuda
@pytest.mark.parametrize("mode", ["unrolled", "checkpointed", "mixed", "first_order"])
def test_replayed_training_equals_eager_training(mode):
    states = []
    for how in ("eager", "cuda_graph"):
        model = learner("cuda", gradient=mode, execution=how, outer=OuterConfig(multi_step_steps=2))
        state = model.init_state()
        for step in range(5):
            state, metrics = model.step(state, batch(step, "cuda"), seed=0)
        states.append((state.theta, metrics))
    for name, leaf in states[0][0].items():
        torch.testing.assert_close(states[1][0][name], leaf, rtol=1e-4, atol=1e-6)
    assert states[1][1] == pytest.approx(states[0][1], rel=1e-4)


@needs_cuda
def test_a_gpu_gives_the_gradient_of_a_cpu():
    model, on_gpu = learner(inner=INNER.model_copy(update={"samples": 1})), learner("cuda")
    theta = model.init_state().theta
    sets = batch()
    support, query = (Examples(w.x[0], w.y[0], w.mask[0]) for w in (sets.support, sets.query))
    episode = BayesianEpisode(support, query, model.perturbation, model.likelihood, model.inner, seed=1)
    inputs = pack(episode, theta)
    expected = unpack(as_function("mixed", episode)(inputs))
    there = BayesianEpisode(support, query, on_gpu.perturbation, model.likelihood, model.inner, seed=1)
    found = unpack(as_function("mixed", there)({name: leaf.cuda() for name, leaf in inputs.items()}))
    for name, leaf in expected.gradient.items():
        torch.testing.assert_close(found.gradient[name].cpu(), leaf, rtol=1e-3, atol=1e-5)


def one_step_function(mode: str):
    """A small meta-gradient and two inputs for it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 2, 1))
    inner = InnerConfig(steps=1, rate=0.2, learn_rates="layer")
    model = Learner(network, GaussianLikelihood(2), TrainConfig(inner=inner, initial_log_std=-2))
    theta, inputs = model.init_state().theta, []
    for seed in (0, 1):
        sets = batch(seed)
        support, query = (Examples(w.x[0], w.y[0], w.mask[0]) for w in (sets.support, sets.query))
        episode = BayesianEpisode(support, query, model.perturbation, model.likelihood, inner, seed=seed)
        inputs.append(pack(episode, theta))
    return as_function(mode, episode), inputs


def compare(mode: str, backend: str) -> None:
    function, inputs = one_step_function(mode)
    compiled = Compiled(function, inputs[0], backend)
    expected, found = function(inputs[1]), compiled(inputs[1])
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-4, atol=1e-6)  # float32, sums in another order


def compare_training() -> None:
    """Whole meta-steps of a learner: clipped inner steps, antithetic pairs, learned rates."""
    execution.Compiled = partial(Compiled, backend="aot_eager")  # inductor's turn is in `compare`
    inner = InnerConfig(steps=2, rate=0.2, samples=2, antithetic=True, clip=0.5)
    states = []
    for how in ("eager", "compile"):
        model = learner(gradient="unrolled", execution=how, inner=inner)
        state = model.init_state()
        for step in range(3):
            state, metrics = model.step(state, batch(step), seed=0)
        states.append((state.theta, metrics))
    for name, leaf in states[0][0].items():
        torch.testing.assert_close(states[1][0][name], leaf, rtol=1e-3, atol=1e-5)
    assert states[1][1] == pytest.approx(states[0][1], rel=1e-4)


BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["unrolled", pytest.param("mixed", marks=pytest.mark.soak)])
def test_compiled_equals_eager(mode, backend):
    in_own_process(f"['compare']({mode!r}, {backend!r})")


@pytest.mark.soak
def test_compiled_training_equals_eager_training():
    in_own_process("['compare_training']()")


def in_own_process(call: str) -> None:
    """The compiler cannot trace the shape checks that the tests put around every function."""
    script = f"import runpy; runpy.run_path({__file__!r}){call}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_compiler_that_is_wrong_is_found_out():
    def wrong(graph, inputs):
        return lambda *values: [2.01 * value for value in graph(*values)]

    with pytest.raises(CompiledDiffersError, match=r"difference of .* in a,"):
        Compiled(lambda tree: {"a": tree["a"] * 3}, {"a": torch.arange(3.0)}, wrong)


def curve(kind: str, device: str) -> torch.Tensor:
    model = learner(device, precision=kind, gradient="unrolled", inner=INNER.model_copy(update={"samples": 1}))
    state, losses = model.init_state(), []
    for _ in range(12):
        state, metrics = model.step(state, batch(0, device), seed=0)
        losses.append(metrics["loss"])
    return torch.tensor(losses)


DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_leaves_the_loss_curve_where_it_was(device):
    reference, found = curve("float32", device), curve("bf16", device)
    fall = reference[0] - reference[-1]
    assert fall > 0.1
    assert not torch.equal(reference, found)
    assert (found - reference).abs().max() < 0.05 * fall


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mode", ["checkpointed", "mixed"])
def test_bfloat16_gradients_agree_between_modes_as_far_as_bfloat16_can(mode, device):
    found = []
    for gradient in ("unrolled", mode):
        model = learner(device, precision="bf16", gradient=gradient)
        tree, _ = model.gradient(model.init_state(), batch(0, device), seed=0)
        found.append(torch.cat([leaf.flatten() for leaf in tree.values()]))
    assert found[0].dtype == torch.float32
    assert (found[1] - found[0]).norm() < 0.03 * found[0].norm()


def tf32_flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_precision_restores_what_it_found():
    before = tf32_flags()
    for kind in ("tf32", "float32"):
        with precision(kind, torch.device("cpu")):
            assert tf32_flags() == (kind == "tf32",) * 2
        assert tf32_flags() == before


def test_precision_of_one_thread_is_not_undone_by_another():
    """The first to come leaves before the second; and whoever wants the other arithmetic waits for both."""
    before, cpu = tf32_flags(), torch.device("cpu")
    first, second, seen = precision("float32", cpu), precision("float32", cpu), []

    def other() -> None:
        with precision("tf32", cpu):
            seen.append(tf32_flags())

    waiting = threading.Thread(target=other, daemon=True)
    first.__enter__()
    second.__enter__()
    waiting.start()
    first.__exit__(None, None, None)
    waiting.join(0.1)
    assert (tf32_flags(), seen) == ((False, False), [])
    second.__exit__(None, None, None)
    waiting.join(30)
    assert (tf32_flags(), seen) == (before, [(True, True)])
