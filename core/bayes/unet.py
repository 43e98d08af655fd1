"""A U-Net that outputs all future frames at once, as a correction to the last frame.

Every operator has a forward-mode derivative and a second reverse one, so that all meta-gradient modes run
through it, and none is `F.interpolate`, whose compiled forward-over-reverse graph is wrong on CPU.

Shape suffixes: N windows, I input planes (k frames x C channels, one validity plane, extra planes),
O output planes (L lead times x C channels), H and W pixels of the target tile, m pixels of input margin.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from core.config import NetworkConfig


class UNet(nn.Module):
    """f_phi: k input frames to L future frames, or to their means and raw scales.

    Input planes are ordered (frame, channel), then the validity plane, then `extra_planes`; outputs (lead, channel).
    With `scale_head` the output has 2 L C planes: the means, then raw scales for the likelihood to bound and to add to
    the log of its noise std.
    The last layer starts at zero: the untrained forecast is persistence with the likelihood's own noise.

    An input wider than the target by `margin` pixels on every side is used whole and the output cropped. Any H and W:
    the input is padded on its lower and right edges to what the pooling needs, and the padding is cropped again.
    """

    def __init__(
        self,
        config: NetworkConfig,
        input_frames: int,
        target_frames: int,
        channels: int,
        *,
        scale_head: bool = False,
        extra_planes: int = 0,
        margin: int = 0,
    ) -> None:
        super().__init__()
        self.input_planes = input_frames * channels + 1 + extra_planes
        self.last_frame = slice((input_frames - 1) * channels, input_frames * channels)
        self.target_frames, self.margin, self.scale_head = target_frames, margin, scale_head
        self.patch, self.multiple = config.patch, config.patch * 2**config.depth
        widths = [
            min(config.width * 2**level, max(config.width, config.max_width)) for level in range(config.depth + 1)
        ]
        outputs = target_frames * channels * (2 if scale_head else 1)
        self.stem = nn.Conv2d(self.input_planes * config.patch**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(Block(width, width) for width in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 1) for fine, coarse in pairwise(widths))
        self.bottom = Block(widths[-1], widths[-1])
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in pairwise(widths))
        self.decoder = nn.ModuleList(Block(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], outputs * config.patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "N I Hm Wm"]) -> Float[Tensor, "N O H W"]:
        """Forecast; raises `ValueError` for another number of planes, or a tile that the margin swallows."""
        height, width = x.shape[-2], x.shape[-1]
        if x.shape[1] != self.input_planes:
            raise ValueError(f"this network takes {self.input_planes} input planes, not {x.shape[1]}")
        if min(height, width) <= 2 * self.margin:
            raise ValueError(f"an input of {height}x{width} leaves nothing inside a margin of {self.margin} pixels")
        h = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        h = self.stem(F.pixel_unshuffle(h, self.patch))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            h = block(h)
            skips.append(h)
            h = down(F.avg_pool2d(h, 2))
        h = self.bottom(h)
        for block, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            h = block(torch.cat([F.pixel_shuffle(up(h), 2), skips.pop()], dim=1))
        inside = (..., slice(self.margin, height - self.margin), slice(self.margin, width - self.margin))
        change = F.pixel_shuffle(self.head(h), self.patch)[inside]
        persistence = x[:, self.last_frame][inside].repeat(1, self.target_frames, 1, 1)
        if not self.scale_head:
            return persistence + change
        change, scale = change.chunk(2, dim=1)
        return torch.cat([persistence + change, scale], dim=1)


class Block(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU, with a shortcut.

    GroupNorm, since batch statistics would leak between the support and the query set.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(h)))


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(count for count in range(8, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)
