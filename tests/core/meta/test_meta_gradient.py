"""The meta-gradient's modes against each other, against finite differences and against a few plain lines."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta import budget
from core.meta.checks import Examples
from core.meta.forward_mode import ForwardModeError
from core.meta.inner_loop import BayesianEpisode, seeded
from core.meta.learner import Learner
from core.meta.state import LearnerState

INNER = InnerConfig(steps=3, rate=0.2, samples=2)
SETTINGS: dict[str, dict] = {
    "plain": dict(inner=INNER),
    "clipped": dict(inner=INNER.model_copy(update={"clip": 0.05})),
    "fixed rate": dict(inner=INNER.model_copy(update={"learn_rates": "no"})),
    "rate per weight": dict(inner=INNER.model_copy(update={"learn_rates": "entry", "adapt_deterministic": False})),
    "multi-step": dict(inner=INNER, outer=OuterConfig(multi_step_steps=9)),
    "both sets": dict(inner=INNER, outer=OuterConfig(objective="support_and_query", hyper_prior=True)),
    "maml": dict(inner=INNER, learner="maml"),
    "no step": dict(inner=INNER.model_copy(update={"steps": 0})),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.SiLU(), nn.Conv2d(6, 2, 3, padding=1))
    return nn.Sequential(*layers).double()


def windows(seed: int, episodes: int = 2) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes, 2, 3, 5, 7, generator=g, dtype=torch.float64)
    y = torch.randn(episodes, 2, 2, 5, 7, generator=g, dtype=torch.float64)
    mask = torch.rand(y.shape, generator=g) > 0.2
    return SimpleNamespace(x=x, y=torch.where(mask, y, torch.nan), mask=mask)


def batch(episodes: int = 2) -> SimpleNamespace:
    return SimpleNamespace(support=windows(1, episodes), query=windows(2, episodes), ids=tuple(range(7, 7 + episodes)))


def learner(mode: str, **settings) -> Learner:
    return Learner(
        network(), GaussianLikelihood(2), TrainConfig(gradient=mode, samples=2, initial_log_std=-2, **settings)
    )


def flat(tree) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.values()])


@pytest.mark.parametrize("name", SETTINGS)
def test_exact_modes_agree(name):
    reference = None
    for mode in ("unrolled", "checkpointed", "mixed"):
        model = learner(mode, **SETTINGS[name])
        gradient, metrics = model.gradient(model.init_state(), batch(), seed=3)
        found = torch.cat((flat(gradient), metrics["loss"].reshape(1)))
        reference = found if reference is None else reference
        assert (found - reference).norm() <= 1e-10 * reference.norm(), mode


@pytest.mark.parametrize("name", ["plain", "clipped", "multi-step", "both sets", "maml"])
def test_gradient_agrees_with_central_finite_differences(name):
    model, data = learner("checkpointed", **SETTINGS[name]), batch(1)
    state = model.init_state()
    g = torch.Generator().manual_seed(5)
    theta = {n: leaf + 0.1 * torch.randn(leaf.shape, generator=g, dtype=leaf.dtype) for n, leaf in state.theta.items()}

    def loss(theta):
        return model.gradient(LearnerState(theta, {}, {}), data, seed=3)[1]["loss"]

    gradient, _ = model.gradient(LearnerState(theta, {}, {}), data, seed=3)
    for part in ("mean/", "log_std/", "point/", "noise/", "log_rate/"):
        names = [n for n in theta if n.startswith(part)]
        if not names:
            continue
        direction = {n: torch.randn(theta[n].shape, generator=g, dtype=theta[n].dtype) for n in names}
        h = 1e-5
        ahead, behind = (loss(theta | {n: theta[n] + s * h * direction[n] for n in names}) for s in (1, -1))
        slope = sum((gradient[n] * direction[n]).sum() for n in names)
        assert ((ahead - behind) / (2 * h) - slope).abs() <= 1e-6 * slope.abs() + 1e-9, part


def test_gradient_agrees_with_a_plain_reference():
    """ABML written out for one linear layer, sharing no code with the library but its noise."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 1, bias=False).double()
    config = TrainConfig(initial_log_std=-1, inner=InnerConfig(steps=3, rate=0.2, learn_rates="no"), gradient="mixed")
    model, data = Learner(network, GaussianLikelihood(2), config), batch(1)
    found, metrics = model.gradient(model.init_state(), data, seed=3)

    mean0 = network.weight.detach().clone().requires_grad_()
    log_std0 = torch.full_like(mean0, -1).requires_grad_()
    noise = torch.full((2,), 0.5).log().double().requires_grad_()

    def nats(windows, mean, log_std, draw):
        generator = seeded(torch.device("cpu"), "3 0 7", draw)
        weight = mean + log_std.exp() * torch.randn(1, *mean.shape, generator=generator, dtype=mean.dtype)[0]
        output = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], windows.x[0])
        observed = torch.distributions.Normal(output, noise.exp()[:, None, None]).log_prob(windows.y[0].nan_to_num())
        return -(observed * windows.mask[0]).sum() / windows.y[0].numel()

    def kl(mean, log_std, pixels):
        q = torch.distributions.Normal(mean, log_std.exp())
        return torch.distributions.kl_divergence(q, torch.distributions.Normal(mean0, log_std0.exp())).sum() / pixels

    mean, log_std = mean0.clone(), log_std0.clone()
    for m in range(3):
        loss = nats(data.support, mean, log_std, f"inner {m}")
        steps = torch.autograd.grad(loss, (mean, log_std), create_graph=True)
        if m:  # the prior is held fixed in the inner KL's gradient, but not in the outer derivative
            pulls = torch.autograd.grad(
                kl(mean, log_std, data.support.y[0].numel()), (mean, log_std), create_graph=True
            )
            steps = [a + b for a, b in zip(steps, pulls, strict=True)]
        mean, log_std = mean - 0.2 * steps[0], log_std - 0.2 * steps[1]
    loss = nats(data.query, mean, log_std, "outer 3 0") + kl(mean, log_std, data.query.y[0].numel())
    expected = torch.autograd.grad(loss, (mean0, log_std0, noise))
    torch.testing.assert_close(metrics["loss"], loss)
    for name, leaf in zip(("mean/weight", "log_std/weight", "noise/log_std"), expected, strict=True):
        assert (found[name] - leaf).norm() <= 1e-10 * leaf.norm(), name


def test_first_order_maml_is_the_query_gradient_at_the_adapted_weights():
    inner = INNER.model_copy(update={"learn_rates": "no"})
    model, data = learner("first_order", inner=inner, learner="maml"), batch(1)
    state = model.init_state()
    found, _ = model.gradient(state, data, seed=3)
    posterior = model.posterior(state, Examples(data.support.x[0], data.support.y[0], data.support.mask[0]))
    weights = {n: leaf.clone().requires_grad_() for n, leaf in posterior.mean.items()}
    output = torch.func.functional_call(model.network, weights, (data.query.x[0],))
    loss = model.likelihood.loss(output, data.query.y[0], data.query.mask[0], posterior.noise) / output.numel()
    for name, leaf in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
        torch.testing.assert_close(found.get(f"mean/{name}", found.get(f"point/{name}")), leaf)


def test_first_order_is_exact_without_inner_steps_and_different_with_them():
    for steps, same in ((0, True), (3, False)):
        inner = INNER.model_copy(update={"steps": steps})
        models = (learner(mode, inner=inner) for mode in ("unrolled", "first_order"))
        a, b = (flat(m.gradient(m.init_state(), batch(), seed=3)[0]) for m in models)
        assert torch.equal(a, b) == same


class Unfriendly(torch.autograd.Function):
    """An operator with a backward pass alone."""

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output): ...

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Doubling(nn.Module):
    def forward(self, x):
        return Unfriendly.apply(x)


def test_mixed_names_the_module_without_forward_mode():
    layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Sequential(nn.SiLU(), Doubling())).double()
    for mode in ("unrolled", "checkpointed", "mixed"):
        model = Learner(layers, GaussianLikelihood(2), TrainConfig(gradient=mode, inner=INNER))
        if mode == "mixed":
            with pytest.raises(ForwardModeError, match=r"Doubling at '1\.1' .*use gradient = 'checkpointed'"):
                model.gradient(model.init_state(), batch(1), seed=0)
        else:
            model.gradient(model.init_state(), batch(1), seed=0)


def test_auto_recomputes_only_where_the_graph_would_not_fit(monkeypatch):
    model, data = learner("auto", inner=INNER), batch(1)
    state = model.init_state()
    sets = [Examples(w.x[0], w.y[0], w.mask[0]) for w in (data.support, data.query)]
    roomy, _ = model.gradient(state, data, seed=0)
    assert model.mode(state, *sets) == "unrolled"
    model = learner("auto", inner=INNER)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 10_000)
    tight, _ = model.gradient(state, data, seed=0)
    assert model.mode(state, *sets) == "checkpointed"
    assert (flat(roomy) - flat(tight)).norm() <= 1e-10 * flat(roomy).norm()
    assert budget.free_bytes(torch.device("cpu")) > 0


def test_graph_bytes_count_what_grows_with_the_steps():
    """Twice the pixels need about twice the activations; the weights' share is small here."""
    found = []
    for rows in (32, 64):
        sets = dict(x=torch.randn(2, 3, rows, 40).double(), y=torch.randn(2, 2, rows, 40).double())
        model = learner("auto", inner=INNER)
        episode = BayesianEpisode(Examples(**sets), None, model.perturbation, model.likelihood, INNER, seed=0)
        found.append(budget.graph_bytes(episode, model.init_state().theta))
    activations = 2 * 6 * 32 * 40 * 8  # one hidden layer of the smaller set
    assert found[0] > 2 * activations
    assert found[1] / found[0] == pytest.approx(2, rel=0.1)


class Live:
    """A saved tensor that counts itself while a graph holds it."""

    now = peak = 0

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor
        Live.now += tensor.nbytes
        Live.peak = max(Live.peak, Live.now)

    def __del__(self):
        Live.now -= self.tensor.nbytes


def peak_graph_bytes(mode: str, steps: int) -> int:
    model, data = learner(mode, inner=INNER.model_copy(update={"steps": steps, "learn_rates": "no"})), batch(1)
    state = model.init_state()
    Live.now = Live.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Live, lambda live: live.tensor):
        model.gradient(state, data, seed=0)
    return Live.peak


def test_checkpointed_holds_one_steps_graph_whatever_the_number_of_steps():
    few, many = (peak_graph_bytes("checkpointed", steps) for steps in (2, 8))
    assert many <= 1.01 * few
    assert peak_graph_bytes("unrolled", 8) > 3 * many
