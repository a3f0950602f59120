"""U-Net discriminator with spectral norm: one realness logit per pixel (Real-ESRGAN, Wang et al., 2021, fig. 6)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm  # the form with hooks: official checkpoints hold weight_orig and weight_u

from tgsr.archs import ARCHS
from tgsr.utils.errors import ConfigError


@ARCHS.register()
class UNetDiscriminatorSN(nn.Module):
    """Three strided convolutions down, three bilinear steps up with additive skips, three more convolutions.

    Args:
        num_in_ch: input channels.
        num_feat: channels at full size; doubled at each step down.
        skip_connection: add the encoder's maps to the decoder's.
    """

    size_multiple = 8

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, skip_connection: bool = True) -> None:
        super().__init__()
        self.skip_connection = skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        for index in range(3):
            width = num_feat * 2**index
            down = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False)
            self.add_module(f"conv{index + 1}", spectral_norm(down))
        for index in range(3):
            width = num_feat * 2 ** (3 - index)
            up = nn.Conv2d(width, width // 2, 3, padding=1, bias=False)
            self.add_module(f"conv{index + 4}", spectral_norm(up))
        self.conv7 = spectral_norm(nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False))
        self.conv8 = spectral_norm(nn.Conv2d(num_feat, num_feat, 3, padding=1, bias=False))
        self.conv9 = nn.Conv2d(num_feat, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of an image (B, C, H, W) whose sides are multiples of 8."""
        if x.shape[-2] % 8 or x.shape[-1] % 8:
            raise ConfigError(
                f"UNetDiscriminatorSN needs sides that are multiples of 8, got {x.shape[-2]}x{x.shape[-1]}",
                remedy="change gt_size",
            )
        x = F.leaky_relu(self.conv0(x), 0.2, inplace=True)
        skips = []
        for conv in (self.conv1, self.conv2, self.conv3):
            skips.append(x)
            x = F.leaky_relu(conv(x), 0.2, inplace=True)
        for conv in (self.conv4, self.conv5, self.conv6):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(conv(x), 0.2, inplace=True)
            skip = skips.pop()
            if self.skip_connection:
                x = x + skip
        for conv in (self.conv7, self.conv8):
            x = F.leaky_relu(conv(x), 0.2, inplace=True)
        return self.conv9(x)
