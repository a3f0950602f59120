"""LightSR: a small network whose whole body works at the input size, for experiments that a CPU finishes in minutes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tgsr.archs import ARCHS
from tgsr.archs.base import CheckpointedBlock, RestorationNetwork


class _ResidualBlock(CheckpointedBlock):
    """conv - LeakyReLU - conv, added to its input."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(functional.leaky_relu(self.conv1(x), 0.1, inplace=True))


@ARCHS.register()
class LightSR(RestorationNetwork):
    """Residual blocks at the input size, one convolution to `3 * upscale^2` channels, pixel shuffle, bilinear skip.

    With 32 features and 8 blocks (162,736 parameters at x4) a step costs about as much as that of an MSRResNet with 16
    features and 4 blocks (40,323 parameters), because no convolution runs at the output size.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels, equal to `num_in_ch`.
        num_feat: channels of the body.
        num_block: residual blocks.
        upscale: integer factor; 1 keeps the size.
    """

    supports_activation_checkpointing = True

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 32,
        num_block: int = 8,
        upscale: int = 4,
    ) -> None:
        super().__init__()
        self.scale = upscale
        self.receptive_field = 2 * (2 * num_block + 2) + 1
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*[_ResidualBlock(num_feat) for _ in range(num_block)])
        self.conv_last = nn.Conv2d(num_feat, num_out_ch * upscale**2, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Each block and the last convolution start near zero: the untrained network is the bilinear enlargement."""
        for block in self.body:
            nn.init.normal_(block.conv2.weight, std=1e-2)
            nn.init.zeros_(block.conv2.bias)
        nn.init.normal_(self.conv_last.weight, std=1e-3)
        nn.init.zeros_(self.conv_last.bias)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, C, h, w)` in [0, 1] -> `(B, C, h * upscale, w * upscale)`, not clamped."""
        features = self.body(functional.leaky_relu(self.conv_first(x), 0.1))
        residual = functional.pixel_shuffle(self.conv_last(features), self.scale)
        skip = x if self.scale == 1 else _enlarge(x, self.scale)
        return residual + skip


def _enlarge(x: torch.Tensor, factor: int) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
