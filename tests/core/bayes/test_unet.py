"""The U-Net: shapes, persistence before training, and derivatives of the orders that the meta-gradient needs."""

import pytest
import torch
from torch.func import functional_call, grad, jvp

from core.bayes.unet import UNet
from core.config import NetworkConfig


def make(frames=3, targets=2, channels=2, *, seed=0, extra_planes=0, margin=0, scale_head=False, **config) -> UNet:
    torch.manual_seed(seed)
    network = UNet(
        NetworkConfig(**{"width": 4, "max_width": 8, "depth": 2} | config),
        frames,
        targets,
        channels,
        scale_head=scale_head,
        extra_planes=extra_planes,
        margin=margin,
    )
    return network.double()


def trained(network: UNet) -> UNet:
    """As if some steps had been taken: no layer is zero any more."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (13, 22), (1, 5)])
def test_untrained_forecast_is_the_last_frame_at_every_lead(height, width, patch):
    x = torch.randn(3, 7, height, width, dtype=torch.float64)
    last_frame = x[:, 4:6]  # frames x channels = 3 x 2, then the validity plane
    y = make(patch=patch)(x)
    torch.testing.assert_close(y, torch.cat([last_frame, last_frame], dim=1), rtol=0, atol=0)


def test_margin_is_seen_and_cropped():
    x = torch.randn(2, 7, 17, 12, dtype=torch.float64)
    x_without = x.clone()
    x_without[..., :3] = 0  # change pixels of the margin alone
    network = make(margin=3)
    torch.testing.assert_close(network(x)[:, :2], x[:, 4:6, 3:14, 3:9], rtol=0, atol=0)
    network = trained(network)
    assert network(x).shape == (2, 4, 11, 6)
    assert not torch.equal(network(x), network(x_without))


def test_extra_planes_are_seen_but_do_not_touch_the_last_frame():
    """Time, sun and location come after the validity plane: the residual is still to the last frame."""
    network = make(extra_planes=8, margin=1)
    x = torch.randn(2, 7 + 8, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(network(x), x[:, 4:6, 1:8, 1:11].repeat(1, 2, 1, 1), rtol=0, atol=0)
    network = trained(network)
    for plane in range(7, 15):
        other = x.clone()
        other[:, plane] = 0.3  # a constant plane, as the time of day is
        assert not torch.equal(network(x), network(other)), plane
    with pytest.raises(ValueError, match="15 input planes, not 7"):
        network(x[:, :7])


def test_scale_head_doubles_the_planes_and_starts_at_zero():
    x = torch.randn(2, 7, 9, 10, dtype=torch.float64)
    mean, scale = make(scale_head=True, margin=1)(x).chunk(2, dim=1)
    torch.testing.assert_close(mean, x[:, 4:6, 1:8, 1:9].repeat(1, 2, 1, 1), rtol=0, atol=0)
    assert (scale == 0).all()
    assert trained(make(scale_head=True))(x).chunk(2, dim=1)[1].std() > 0


def test_widths_double_up_to_the_cap():
    network = make(width=4, max_width=8, depth=3)
    assert [block.conv2.out_channels for block in [*network.encoder, network.bottom]] == [4, 8, 8, 8]


def test_a_window_does_not_see_the_others():
    network = trained(make(patch=2, extra_planes=2))
    x = torch.randn(4, 9, 11, 9, dtype=torch.float64)
    alone = torch.cat([network(window[None]) for window in x])
    torch.testing.assert_close(network(x), alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [{}, {"patch": 2, "scale_head": True, "extra_planes": 8}])
def test_derivatives_of_every_mode_agree(config):
    """grad against central differences; forward-over-reverse against reverse-over-reverse."""
    network = trained(make(**config))
    x = torch.randn(2, network.input_planes, 7, 10, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}

    def loss(p):
        return functional_call(network, p, (x,)).square().mean()

    _, forward_over_reverse = jvp(grad(loss), (parameters,), (direction,))
    leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
    first = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    slope = sum((g * d).sum() for g, d in zip(first, direction.values(), strict=True))
    reverse_over_reverse = torch.autograd.grad(slope, list(leaves.values()))
    for ours, theirs in zip(forward_over_reverse.values(), reverse_over_reverse, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)

    step = 3e-7
    above, below = (loss({n: p + s * direction[n] for n, p in parameters.items()}) for s in (step, -step))
    torch.testing.assert_close(slope.detach(), (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


def test_wrong_planes_and_a_tile_inside_the_margin_are_named():
    with pytest.raises(ValueError, match="7 input planes, not 6"):
        make()(torch.randn(1, 6, 8, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="margin of 4"):
        make(margin=4)(torch.randn(1, 7, 8, 12, dtype=torch.float64))
