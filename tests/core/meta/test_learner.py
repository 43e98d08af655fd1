"""The learners against hand-written ones, their limits and their determinism."""

from types import SimpleNamespace

import pytest
import torch

from core.bayes.likelihood import GaussianLikelihood
from core.config import InnerConfig, TrainConfig
from core.meta.learner import Learner
from core.meta.state import LearnerState
from tests.core.meta.small_learner import INNER, batch, first, learner, network


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


@pytest.mark.parametrize("mode", ["unrolled", "mixed"])
def test_samples_in_one_vmap_leave_the_gradient_as_it_is(mode):
    found = []
    for together in (False, True):
        inner = INNER.model_copy(update={"samples": 3, "perturbation": "flipout", "batch_samples": together})
        model = learner(gradient=mode, samples=2, inner=inner, initial_log_std=-1)
        found.append(model.gradient(model.init_state(), batch(1), seed=0)[0])
    for name, leaf in found[0].items():
        torch.testing.assert_close(found[1][name], leaf, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("mode", ["unrolled", "checkpointed", "mixed", "first_order"])
def test_an_empty_support_trains_the_prior_itself(mode):
    """N_S = 0 is M = 0: the query's loss at the prior, whose KL to itself is 0."""
    data = batch()
    none = SimpleNamespace(**{part: leaf[:, :0] for part, leaf in vars(data.support).items()})
    without = SimpleNamespace(support=none, query=data.query, ids=data.ids)
    model, reference = learner(gradient=mode), learner(inner=INNER.model_copy(update={"steps": 0}))
    found, metrics = model.gradient(model.init_state(), without, seed=0)
    expected, expected_metrics = reference.gradient(reference.init_state(), data, seed=0)
    assert metrics["kl"] == 0
    assert torch.isfinite(metrics["loss"])
    assert metrics["loss"] == expected_metrics["loss"]
    for name, leaf in expected.items():
        torch.testing.assert_close(found[name], leaf, rtol=1e-12, atol=1e-15)


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


@pytest.mark.parametrize("kind", ["entry", "layer", "layer_step"])
def test_stiff_weights_start_with_small_rates(kind):
    inner = INNER.model_copy(update={"learn_rates": kind, "precondition": 1e-3})
    plain, model = learner(learner="pooled"), learner(inner=inner)
    pooled = plain.init_state()
    for _ in range(3):
        pooled, _ = plain.step(pooled, batch(), seed=0)
    theta = model.init_state(pooled).theta
    for name in ("mean/3.weight", "point/1.bias"):
        square = pooled.second_moment[name] / (1 - 0.999**3)
        expected = 0.2 / (1 + (square if kind == "entry" else square.mean()) / 1e-3)
        shape = {"entry": square.shape, "layer": (), "layer_step": (2,)}[kind]
        torch.testing.assert_close(theta[f"log_rate/{name}"].exp(), expected.expand(shape))
    assert (theta["log_rate/mean/3.weight"] < theta["log_rate/log_std/3.weight"].max()).all()
    torch.testing.assert_close(theta["log_rate/log_std/3.weight"].exp().mean(), torch.tensor(0.2).double())
    same = learner(inner=inner.model_copy(update={"precondition": 0.0})).init_state(pooled).theta
    torch.testing.assert_close(same["log_rate/mean/3.weight"].exp().mean(), torch.tensor(0.2).double())
