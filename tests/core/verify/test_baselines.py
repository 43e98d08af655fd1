import numpy as np
import pytest
import torch

from core.verify.baselines import DressedPersistence, climatology, last_frame, persistence


def test_last_frame_is_the_newest_frame_of_every_channel_without_margin_and_validity():
    x = torch.arange(2 * 7 * 8 * 10, dtype=torch.float32).reshape(2, 7, 8, 10)  # k = 3, C = 2, one observed plane
    last = last_frame(x, channels=2, target_frames=3, height=4, width=6)
    assert last.shape == (2, 6, 4, 6)
    for lead in range(3):
        assert torch.equal(last[:, 2 * lead : 2 * lead + 2], x[:, 4:6, 2:-2, 2:-2])


def test_a_pixel_that_the_newest_frame_lacks_is_the_newest_that_there_is():
    x = torch.randn(1, 7, 2, 5)  # k = 3, C = 2
    seen = torch.ones(1, 3, 2, 2, 5).bool()
    seen[:, 2, 0, 0, 1] = False  # the newest of channel 0
    seen[:, 1:, :, 0, 2] = False  # the newest two of both
    seen[:, :, 1, 0, 3] = False  # all of channel 1
    x[:, :6] *= seen.flatten(1, 2)
    x[:, 6] = seen.float().mean((1, 2))
    x[:, 4, 1, 4] = 0.0  # seen, and just the mean
    expected = x[:, 4:6].clone()
    expected[:, 0, 0, 1] = x[:, 2, 0, 1]
    expected[:, :, 0, 2] = x[:, 0:2, 0, 2]
    assert torch.equal(last_frame(x, channels=2, target_frames=1, height=2, width=5), expected)
    assert expected[0, 1, 0, 3] == expected[0, 0, 1, 4] == 0


def test_persistence_crps_is_its_absolute_error():
    last, y = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(persistence(last).crps(y), (last - y).abs())


def test_dressing_has_the_quantiles_of_the_training_errors():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 2.0])[:, None, None]

    def windows():
        for _ in range(30):
            last = torch.randn(4, 2, 20, 24, generator=generator)
            y = last + 0.5 + scale * torch.randn(4, 2, 20, 24, generator=generator)
            mask = torch.rand(4, 2, 20, 24, generator=generator) > 0.4
            yield last, torch.where(mask, y, torch.tensor(1e9)), mask

    errors = DressedPersistence.fit(windows(), generator).errors
    levels = (torch.arange(len(errors)) + 0.5) / len(errors)
    expected = 0.5 + torch.special.ndtri(levels)[:, None] * torch.tensor([1.0, 2.0])
    np.testing.assert_allclose(errors[2:-2], expected[2:-2], atol=0.08)


def test_dressing_is_scored_as_the_discrete_distribution_it_is():
    dressed = DressedPersistence(torch.tensor([[-1.0], [0.0], [2.0]]))
    last = torch.zeros(1, 1, 1, 1)
    forecast = dressed.predict(last)
    # mean |x - y| - mean |x - x'| / 2 over all nine pairs, by hand for y = 1
    assert float(forecast.crps(torch.ones(1, 1, 1, 1))) == pytest.approx((2 + 1 + 1) / 3 - (1 + 3 + 2) * 2 / 18)


def test_dressing_needs_an_observed_pixel():
    empty = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="no observed target pixel"):
        DressedPersistence.fit([(empty, empty, empty.bool())], torch.Generator())


def test_climatology_has_every_target_frame_of_the_support_as_a_member():
    y = torch.arange(2 * 4 * 1 * 3, dtype=torch.float32).reshape(2, 4, 1, 3)  # M = 2, L = 2, C = 2
    mask = torch.ones_like(y).bool()
    mask[0, 0, 0, 1] = False  # one frame of channel 0 lacks a pixel
    mask[:, ::2, 0, 2] = False  # and all lack another
    forecast = climatology(y, mask, (5, 6, 1, 3), channels=2)
    assert forecast.members.shape == (4, 5, 6, 1, 3)
    first, second = y[:, ::2].reshape(4, 3).clone(), y[:, 1::2].reshape(4, 3)
    first[0, 1], first[:, 2] = first[1:, 1].mean(), 0.0
    for window in range(5):
        for lead in range(3):
            torch.testing.assert_close(forecast.members[:, window, 2 * lead, 0], first)
            torch.testing.assert_close(forecast.members[:, window, 2 * lead + 1, 0], second)
