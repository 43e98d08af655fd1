"""The learners against hand-written ones, their limits, their determinism, and what they refuse."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from core.bayes.likelihood import GaussianLikelihood, ShapeMismatchError
from core.config import InnerConfig, OuterConfig, TrainConfig
from core.meta.checks import DivergedError, Examples, NonFiniteDataError, NothingObservedError, UntrackedBuffersError
from core.meta.learner import Learner, LearnerState

INNER = InnerConfig(steps=2, rate=0.2, learn_rates="no")


def network(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3, padding=1))
    return nn.Sequential(*layers).to(dtype)


def windows(seed: int, episodes: int = 3, dtype=torch.float64) -> SimpleNamespace:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(episodes, 2, 3, 5, 7, generator=g, dtype=dtype)
    return SimpleNamespace(x=x, y=x[:, :, 1:] * 0.5 + 1, mask=torch.rand(x[:, :, 1:].shape, generator=g) > 0.2)


def batch(episodes: int = 3, dtype=torch.float64) -> SimpleNamespace:
    sets = dict(support=windows(1, episodes, dtype), query=windows(2, episodes, dtype))
    return SimpleNamespace(**sets, ids=tuple(range(episodes)))


def learner(**settings) -> Learner:
    return Learner(network(), GaussianLikelihood(2), TrainConfig(**{"inner": INNER, **settings}))


def first(stack) -> Examples:
    return Examples(stack.x[0], stack.y[0], stack.mask[0])


def test_maml_equals_a_hand_written_maml():
    model, data = learner(learner="maml", gradient="checkpointed"), batch(1)
    found, metrics = model.gradient(model.init_state(), data, seed=0)

    plain = network()
    fast = dict(plain.named_parameters())
    log_std = torch.full((2,), 0.5).log().double()

    def nats(weights, examples):
        output = torch.func.functional_call(plain, weights, (examples.x,))
        density = torch.distributions.Normal(output, log_std.exp()[:, None, None]).log_prob(examples.y)
        return -(density * examples.mask).sum() / examples.y.numel()

    for _ in range(2):
        steps = torch.autograd.grad(nats(fast, first(data.support)), list(fast.values()), create_graph=True)
        fast = {name: leaf - 0.2 * step for (name, leaf), step in zip(fast.items(), steps, strict=True)}
    loss = nats(fast, first(data.query))
    expected = torch.autograd.grad(loss, list(plain.parameters()))
    torch.testing.assert_close(metrics["loss"], loss)
    for (name, _), leaf in zip(plain.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found.get(f"mean/{name}", found.get(f"point/{name}")), leaf, rtol=1e-10, atol=1e-14)


def test_abml_without_kl_tends_to_maml_as_the_noise_vanishes():
    reference = learner(learner="maml")
    expected, _ = reference.gradient(reference.init_state(), batch(1), seed=0)
    distances = []
    for log_std in (-6.0, -9.0, -12.0):
        model = learner(initial_log_std=log_std, kl_weight=0, inner=INNER.model_copy(update={"kl_weight": 0.0}))
        found, _ = model.gradient(model.init_state(), batch(1), seed=0)
        distances.append(sum((found[name] - leaf).norm() for name, leaf in expected.items()).item())
    assert distances[1] < 0.1 * distances[0]
    assert distances[2] < 0.1 * distances[1]


def test_pooled_is_the_gradient_on_all_windows_and_fine_tunes():
    model, data = learner(learner="pooled"), batch(1)
    state = model.init_state()
    found, _ = model.gradient(state, data, seed=0)
    plain = network()
    both = [torch.cat((getattr(data.query, part)[0], getattr(data.support, part)[0])) for part in ("x", "y", "mask")]
    loss = model.likelihood.loss(plain(both[0]), both[1], both[2], {"log_std": state.theta["noise/log_std"]})
    loss = loss / both[1].numel()
    for (name, _), leaf in zip(plain.named_parameters(), torch.autograd.grad(loss, plain.parameters()), strict=True):
        torch.testing.assert_close(found.get(f"mean/{name}", found.get(f"point/{name}")), leaf)
    assert torch.equal(model.posterior(state, first(data.support)).mean["0.weight"], state.theta["mean/0.weight"])
    tuned = model.posterior(state, first(data.support), steps=5).support
    assert tuned[-1] < tuned[0]


@pytest.mark.parametrize("mode", ["unrolled", "checkpointed", "mixed"])
def test_same_seed_same_bits_and_another_seed_others(mode):
    results = []
    for seed in (4, 4, 5):
        model = learner(gradient=mode, samples=2)
        state = model.init_state()
        for _ in range(2):
            state, metrics = model.step(state, batch(), seed=seed)
        results.append((state.tensors(), metrics))
    assert all(torch.equal(results[0][0][name], leaf) for name, leaf in results[1][0].items())
    assert results[0][1] == results[1][1] != results[2][1]


def test_an_episode_contributes_the_same_whatever_rank_holds_it():
    model, data = learner(), batch()
    state = model.init_state()
    whole, _ = model.gradient(state, data, seed=0)
    total = dict.fromkeys(whole, 0.0)
    for i in (2, 0, 1):
        part = SimpleNamespace(
            **{
                k: SimpleNamespace(**{n: v[i : i + 1] for n, v in vars(getattr(data, k)).items()})
                for k in ("support", "query")
            },
            ids=(data.ids[i],),
        )
        gradient, _ = model.gradient(state, part, seed=0)
        total = {name: total[name] + leaf for name, leaf in gradient.items()}
    for name, leaf in whole.items():
        torch.testing.assert_close(total[name], leaf)


def test_training_lowers_the_loss_and_adapting_helps():
    model, data = learner(learning_rate=0.02, inner=InnerConfig(steps=2, rate=0.2)), batch()
    state, losses = model.init_state(), []
    for _ in range(60):
        state, metrics = model.step(state, data, seed=0)
        losses.append(metrics["loss"])
    assert losses[-1] < losses[0] - 0.5
    assert metrics["support_improvement"] > 0


def test_state_survives_a_flat_tree_and_training_goes_on_with_the_same_bits():
    model = learner(inner=InnerConfig(steps=2))
    state, _ = model.step(model.init_state(), batch(1), seed=0)
    restored = LearnerState.from_tensors({name: leaf.clone() for name, leaf in state.tensors().items()})
    a, b = (model.step(s, batch(1), seed=0)[0].tensors() for s in (state, restored))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_adam_agrees_with_torch():
    model = learner(outer=OuterConfig(scalar_rate=1.0))
    state = model.init_state()
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in state.theta.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=model.config.learning_rate)
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        gradient = {n: torch.randn(leaf.shape, generator=g, dtype=leaf.dtype) for n, leaf in leaves.items()}
        state = model.apply(state, gradient)
        for name, leaf in leaves.items():
            leaf.grad = gradient[name]
        optimiser.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(state.theta[name], leaf.detach())


def test_moped_starts_from_the_pooled_weights_and_noise():
    pooled = learner(learner="pooled", learning_rate=0.1)
    trained, _ = pooled.step(pooled.init_state(), batch(), seed=0)
    state = learner().init_state(trained)
    for name in ("mean/0.weight", "point/1.weight", "noise/log_std"):
        assert torch.equal(state.theta[name], trained.theta[name])
    assert torch.all(state.theta["log_std/0.weight"] == -4.5)


def test_multi_step_loss_fades_to_the_last_step():
    model = learner(inner=InnerConfig(steps=4), outer=OuterConfig(multi_step_steps=10))
    assert model._outer_weights(0) == pytest.approx({1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25})
    assert sum(model._outer_weights(7).values()) == pytest.approx(1)
    assert model._outer_weights(7)[4] > 0.75
    assert model._outer_weights(10) == {}


def test_first_order_warm_up_then_exact():
    annealed = learner(outer=OuterConfig(first_order_steps=1), gradient="mixed")
    first_order, exact = learner(gradient="first_order"), learner(gradient="mixed")
    state = annealed.init_state()
    for step, reference in ((0, first_order), (1, exact)):
        at = LearnerState(state.theta, state.first_moment, state.second_moment, step)
        found, expected = (m.gradient(at, batch(1), seed=0)[0] for m in (annealed, reference))
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_hyper_prior_is_the_stated_log_density():
    with_it, without = (learner(outer=OuterConfig(hyper_prior=flag)) for flag in (True, False))
    state, data = without.init_state(), batch(1)
    difference = [m.gradient(state, data, seed=0)[1]["loss"] for m in (with_it, without)]
    means = torch.cat([v.flatten() for n, v in state.theta.items() if n.startswith("mean/")])
    stds = torch.cat([v.exp().flatten() for n, v in state.theta.items() if n.startswith("log_std/")])
    normal = (
        -torch.distributions.Normal(0, 1).log_prob(means).sum()
        + torch.distributions.Normal(0, 1).log_prob(torch.zeros_like(means)).sum()
    )
    gamma = -torch.distributions.Gamma(torch.tensor(1.0).double(), 0.01).log_prob(stds**-2)
    gamma = (gamma + torch.tensor(0.01).log()).sum()
    expected = (normal + gamma) / data.query.y[0].numel()
    torch.testing.assert_close(difference[0] - difference[1], expected)


def test_predictions_are_whole_weight_draws():
    model, data = learner(initial_log_std=-1), batch(1)
    posterior = model.posterior(model.init_state(), first(data.support))
    mean, std = model.predict(posterior, data.query.x[0], 4, torch.Generator().manual_seed(0))
    assert mean.shape == (4, *data.query.y[0].shape)
    assert std.shape == (2, 1, 1)
    # one draw is shared by the windows: predicting them one by one with the same generator gives the same draws
    one, _ = model.predict(posterior, data.query.x[0][1:], 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(one[:, 0], mean[:, 1])
    point = learner(learner="maml")
    mean, _ = point.predict(
        point.posterior(point.init_state(), first(data.support)), data.query.x[0], 3, torch.Generator()
    )
    assert torch.equal(mean[0], mean[2])


def spoil(kind: str) -> SimpleNamespace:
    data = batch(1)
    if kind == "masked":
        data.query.mask[:] = False
    if kind == "nan input":
        data.support.x[0, 1, 0, 2, 3] = torch.nan
    if kind == "nan target":
        data.query.y[data.query.mask] = torch.nan
    if kind == "mask shape":
        data.support.mask = data.support.mask[..., :-1]
    if kind == "count":
        data.query.y = data.query.y[:, :1]
    if kind == "channels":
        data.query.y, data.query.mask = data.query.y[:, :, :1], data.query.mask[:, :, :1]
    return data


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("masked", NothingObservedError, "query set has no observed target pixel"),
        ("nan input", NonFiniteDataError, "support set .* 1 input values; set missing inputs to 0"),
        ("nan target", NonFiniteDataError, "query set .* mask missing targets"),
        ("mask shape", ShapeMismatchError, "support windows do not fit together"),
        ("count", ShapeMismatchError, "as many targets as inputs"),
        ("channels", ShapeMismatchError, "output does not fit the targets"),
    ],
)
def test_bad_data_are_named_with_the_mend(kind, error, words):
    model = learner()
    with pytest.raises(error, match=words):
        model.gradient(model.init_state(), spoil(kind), seed=0)


def test_a_rate_that_diverges_never_reaches_the_prior():
    model = learner(inner=InnerConfig(steps=8, rate=10.0, learn_rates="no"), initial_log_std=1.0)
    big = batch(1)
    big.support.y = big.support.y * 1e150
    with pytest.raises(DivergedError, match=r"train\.inner\.clip"):
        model.step(model.init_state(), big, seed=0)
    state = model.init_state()
    with pytest.raises(DivergedError, match=r"log_std/0\.weight"):
        model.apply(state, {n: leaf * (torch.nan if n == "log_std/0.weight" else 1) for n, leaf in state.theta.items()})


def test_a_network_with_state_of_its_own_is_refused():
    with pytest.raises(UntrackedBuffersError, match=r"'1'.*use GroupNorm"):
        Learner(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), GaussianLikelihood(2), TrainConfig())
    with pytest.raises(UntrackedBuffersError, match="Dropout"):
        Learner(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.1)), GaussianLikelihood(2), TrainConfig())
    batch_statistics = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    Learner(batch_statistics, GaussianLikelihood(2), TrainConfig())


class Counting(nn.Module):
    """A layer that counts its own calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 2, 1).double()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.convolution(x) * self.calls.item()


def test_a_buffer_that_changes_is_found_out():
    model = Learner(Counting(), GaussianLikelihood(2), TrainConfig(inner=INNER, gradient="unrolled"))
    with pytest.raises(UntrackedBuffersError, match="'calls'"):
        model.gradient(model.init_state(), batch(1), seed=0)


def test_only_the_chosen_parameters_get_a_distribution_each_layer_perturbed_as_chosen():
    model = Learner(
        network(),
        GaussianLikelihood(2),
        TrainConfig(inner=INNER, gradient="mixed"),
        bayesian=["3.weight"],
        perturbation=lambda name, layer: "flipout" if name == "3" else "weight",
    )
    state = model.init_state()
    assert [name for name in state.theta if name.startswith("log_std/")] == ["log_std/3.weight"]
    assert {"mean/3.weight", "point/3.bias", "point/0.weight"} <= state.theta.keys()
    gradient, _ = model.gradient(state, batch(1), seed=0)
    assert gradient["log_std/3.weight"].abs().sum() > 0
    adapted = model.posterior(state, first(batch(1).support))
    assert not torch.equal(adapted.mean["0.weight"], state.theta["point/0.weight"])
    with pytest.raises(ValueError, match="nowhere"):
        Learner(network(), GaussianLikelihood(2), TrainConfig(), bayesian=["nowhere"])
