"""Members drawn once are those that are drawn anew for each call, and those of the plain sum mean + std * noise."""

import torch

from core.bayes.gaussian import standard_normal
from core.bayes.perturbation import Perturbation
from tests.core.meta.small_learner import batch, first, learner


def test_members_drawn_once_are_those_drawn_for_each_call():
    model, data = learner(initial_log_std=-1), batch(1)
    posterior = model.posterior(model.init_state(), first(data.support))
    x = torch.cat([data.query.x[0], data.support.x[0]])

    def seeded():
        return torch.Generator().manual_seed(7)

    noise = standard_normal(posterior.log_std, seeded(), 5)
    expected = Perturbation(model.network).outputs(posterior.mean, posterior.log_std, noise, x)
    mean, std = model.predict(posterior, x, 5, seeded())
    torch.testing.assert_close(mean, expected, rtol=0, atol=0)
    draw = model.sampler(posterior, 5, seeded())
    for rows in (slice(0, 3), slice(3, 4)):
        torch.testing.assert_close(draw(x[rows]).mean, expected[:, rows], rtol=1e-12, atol=1e-12)
        assert torch.equal(draw(x[rows]).std, std)
    assert (mean[0] - mean[1]).abs().min() > 0
