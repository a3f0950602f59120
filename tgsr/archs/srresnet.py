"""MSRResNet: SRResNet without batch norm (BasicSR's form), for super-resolution and, as in GRIDS, at equal size."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import CheckpointedBlock, RestorationNetwork, conv3, init_residual, radius_below

_UPSAMPLING = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class ResidualBlockNoBN(CheckpointedBlock):
    """Convolution, ReLU, convolution, plus the input."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = conv3(num_feat, num_feat)
        self.conv2 = conv3(num_feat, num_feat)
        init_residual(self.children())

    def compute(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


def _upsampled(conv: nn.Module, x: Tensor, factor: int) -> Tensor:
    """Convolution, pixel shuffle, leaky ReLU.

    In channels_last the shuffle is a transposition of pixels' numbers, 5 % of a training step. With the convolution's
    channels in another order (all colours of the first new pixel, then of the second, ...) it moves whole pixels, which
    is three times as fast and gives the same bits.
    """
    is_plain = type(conv) is nn.Conv2d and not (conv._forward_hooks or conv._forward_pre_hooks)
    if not (is_plain and x.is_contiguous(memory_format=torch.channels_last)):
        return F.leaky_relu(F.pixel_shuffle(conv(x), factor), 0.1, inplace=True)
    weight, bias = (p.unflatten(0, (-1, factor**2)).transpose(0, 1).flatten(0, 1) for p in (conv.weight, conv.bias))
    pixels = F.conv2d(x, weight, bias, padding=1).permute(0, 2, 3, 1)
    b, h, w, _ = pixels.shape
    moved = pixels.reshape(b, h, w, factor, factor, -1).transpose(2, 3).reshape(b, h * factor, w * factor, -1)
    return F.leaky_relu(moved, 0.1, inplace=True).permute(0, 3, 1, 2)


@ARCHS.register()
class MSRResNet(RestorationNetwork):
    """Residual blocks, pixel-shuffle upsampling, and the bilinearly enlarged input added at the end.

    `body` holds the residual blocks: its output is the deep representation that degradation similarity is read from.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels; equal to num_in_ch because the input is added.
        num_feat: channels of the body.
        num_block: residual blocks.
        upscale: output size divided by input size; 1 has no upsampling layers.
    """

    supports_activation_checkpointing = True

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        upscale: Literal[1, 2, 3, 4, 8] = 4,
    ) -> None:
        super().__init__()
        self.scale = upscale
        self.factors = _UPSAMPLING[upscale]
        self.conv_first = conv3(num_in_ch, num_feat)
        self.body = nn.Sequential(*(ResidualBlockNoBN(num_feat) for _ in range(num_block)))
        for index, factor in enumerate(self.factors, 1):
            self.add_module(f"upconv{index}", conv3(num_feat, num_feat * factor**2))
        self.conv_hr = conv3(num_feat, num_feat)
        self.conv_last = conv3(num_feat, num_out_ch)
        init_residual(m for name, m in self.named_children() if name != "body")

        radius = 2
        for factor in self.factors:
            radius = radius_below(radius, factor) + 1
        self.receptive_field = 2 * (radius + 1 + 2 * num_block) + 1

    def compute(self, x: Tensor) -> Tensor:
        out = self.body(F.leaky_relu(self.conv_first(x), 0.1, inplace=True))
        for index, factor in enumerate(self.factors, 1):
            out = _upsampled(getattr(self, f"upconv{index}"), out, factor)
        out = self.conv_last(F.leaky_relu(self.conv_hr(out), 0.1, inplace=True))
        if self.scale == 1:
            return out + x
        return out + F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)


@ARCHS.register()
class SRResNetSameSize(MSRResNet):
    """MSRResNet without upsampling: the backbone of GRIDS at equal input and output size.

    Starts with plain Kaiming weights before the last convolution, where MSRResNet has a tenth of them: the small start
    keeps a network trained with L1 on many degradations at its own input, which is the median of what it should return.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels; equal to num_in_ch because the input is added.
        num_feat: channels of the body.
        num_block: residual blocks.
    """

    def __init__(self, *, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 64, num_block: int = 16) -> None:
        super().__init__(num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, num_block=num_block, upscale=1)
        init_residual([self.conv_first, self.conv_hr], scale=1.0)
