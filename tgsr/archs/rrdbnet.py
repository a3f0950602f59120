"""RRDBNet: the generator of ESRGAN (Wang et al., 2018, fig. 4); with pixel-unshuffle, that of Real-ESRGAN x2 and x1."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import CheckpointedBlock, RestorationNetwork, conv3, init_residual, radius_below


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all maps before it."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = conv3(num_feat, num_grow_ch)
        self.conv2 = conv3(num_feat + num_grow_ch, num_grow_ch)
        self.conv3 = conv3(num_feat + 2 * num_grow_ch, num_grow_ch)
        self.conv4 = conv3(num_feat + 3 * num_grow_ch, num_grow_ch)
        self.conv5 = conv3(num_feat + 4 * num_grow_ch, num_feat)
        init_residual(self.children())

    def forward(self, x: Tensor) -> Tensor:
        # Appending to the last concatenation instead of joining all maps anew gives the same values, but the backward
        # pass adds 4 gradients instead of 10: 15 % fewer kernels, 4 % less time in bf16 on a CPU.
        maps = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            maps = torch.cat((maps, F.leaky_relu(conv(maps), 0.2, inplace=True)), 1)
        return torch.add(x, self.conv5(maps), alpha=0.2)


class RRDB(CheckpointedBlock):
    """Three dense blocks inside one more residual."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def compute(self, x: Tensor) -> Tensor:
        return torch.add(x, self.rdb3(self.rdb2(self.rdb1(x))), alpha=0.2)


@ARCHS.register()
class RRDBNet(RestorationNetwork):
    """RRDB trunk, then two times nearest upsampling and convolution.

    For scale 2 and 1 the input is first folded into channels by 2 or 4, as in Real-ESRGAN, so that the trunk always
    works at a quarter of the output's size.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels.
        scale: output size divided by input size.
        num_feat: channels of the trunk.
        num_block: RRDBs (three dense blocks each).
        num_grow_ch: channels that each convolution of a dense block adds.
    """

    supports_activation_checkpointing = True

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: Literal[1, 2, 4] = 4,
        num_feat: int = 64,
        num_block: int = 23,
        num_grow_ch: int = 32,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.size_multiple = fold = 4 // scale
        self.conv_first = conv3(num_in_ch * fold**2, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv3(num_feat, num_feat)
        self.conv_up1 = conv3(num_feat, num_feat)
        self.conv_up2 = conv3(num_feat, num_feat)
        self.conv_hr = conv3(num_feat, num_feat)
        self.conv_last = conv3(num_feat, num_out_ch)
        trunk = 2 + 15 * num_block + radius_below(1 + radius_below(3, 2), 2)
        self.receptive_field = 2 * fold * trunk + 1

    def features(self, x: Tensor) -> Tensor:
        """The trunk's map: (B, num_feat, H, W) before any upsampling."""
        x = self.conv_first(F.pixel_unshuffle(x, self.size_multiple) if self.size_multiple > 1 else x)
        return x + self.conv_body(self.body(x))

    def upsample(self, x: Tensor) -> Tensor:
        """Features four times as large as the trunk's map."""
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2, inplace=True)
        return x

    def compute(self, x: Tensor) -> Tensor:
        x = self.upsample(self.features(x))
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2, inplace=True))
