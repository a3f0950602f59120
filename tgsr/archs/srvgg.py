"""SRVGGNetCompact: the small network of Real-ESRGAN, plain convolutions at the input size."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import RestorationNetwork, conv3


@ARCHS.register()
class SRVGGNetCompact(RestorationNetwork):
    """Convolutions and activations, one pixel shuffle at the end, added to the nearest-neighbour enlargement.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels; equal to num_in_ch because the input is added.
        num_feat: channels of the body.
        num_conv: convolutions between the first and the last.
        upscale: output size divided by input size.
        act_type: activation after each convolution but the last.
    """

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_conv: int = 16,
        upscale: int = 4,
        act_type: Literal["relu", "prelu", "leakyrelu"] = "prelu",
    ) -> None:
        super().__init__()
        self.scale = upscale
        self.receptive_field = 2 * (num_conv + 2) + 1

        def activation() -> nn.Module:
            if act_type == "prelu":
                return nn.PReLU(num_parameters=num_feat)
            return nn.ReLU(inplace=True) if act_type == "relu" else nn.LeakyReLU(0.1, inplace=True)

        layers: list[nn.Module] = [conv3(num_in_ch, num_feat), activation()]
        for _ in range(num_conv):
            layers += [conv3(num_feat, num_feat), activation()]
        self.body = nn.ModuleList([*layers, conv3(num_feat, num_out_ch * upscale**2)])

    def compute(self, x: Tensor) -> Tensor:
        base = x if self.scale == 1 else F.interpolate(x, scale_factor=self.scale, mode="nearest")
        for layer in self.body:
            x = layer(x)
        return F.pixel_shuffle(x, self.scale) + base
