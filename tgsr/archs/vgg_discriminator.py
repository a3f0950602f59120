"""VGG-style discriminator of SRGAN and ESRGAN: one realness logit per image of a fixed size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.utils.errors import ConfigError


@ARCHS.register(aliases=("VGGStyleDiscriminator128",))
class VGGStyleDiscriminator(nn.Module):
    """Pairs of a 3x3 and a strided 4x4 convolution with batch norm down to 4x4 pixels, then two linear layers.

    Args:
        num_in_ch: input channels.
        num_feat: channels at full size; doubled at each of the first three steps down.
        input_size: height and width of the input, which is the training's gt_size.
    """

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, input_size: Literal[128, 256] = 128) -> None:
        super().__init__()
        self.input_size = input_size
        self.num_stages = 5 if input_size == 128 else 6
        width = num_in_ch
        for stage in range(self.num_stages):
            out = num_feat * min(2**stage, 8)
            self.add_module(f"conv{stage}_0", nn.Conv2d(width, out, 3, padding=1, bias=stage == 0))
            if stage > 0:
                self.add_module(f"bn{stage}_0", nn.BatchNorm2d(out))
            self.add_module(f"conv{stage}_1", nn.Conv2d(out, out, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{stage}_1", nn.BatchNorm2d(out))
            width = out
        self.linear1 = nn.Linear(width * 4 * 4, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1) of an image (B, C, input_size, input_size)."""
        if x.shape[-2:] != (self.input_size, self.input_size):
            raise ConfigError(
                f"VGGStyleDiscriminator(input_size={self.input_size}) got {x.shape[-2]}x{x.shape[-1]}",
                remedy="set gt_size and network_d.input_size to the same value, 128 or 256",
            )
        modules = dict(self.named_children())
        for stage in range(self.num_stages):
            for step in (0, 1):
                x = modules[f"conv{stage}_{step}"](x)
                if norm := modules.get(f"bn{stage}_{step}"):
                    x = norm(x)
                x = F.leaky_relu(x, 0.2, inplace=True)
        return self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2, inplace=True))
