"""PatchGAN discriminator of pix2pix (Isola et al., 2017): a realness logit for each overlapping patch of an image."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.config.spec import Range


@ARCHS.register(aliases=("NLayerDiscriminator",))
class PatchDiscriminator(nn.Module):
    """4x4 convolutions: `num_layers` of stride 2, then two of stride 1, with batch norm between the first and the last.

    With three layers a logit sees 70x70 pixels.

    Args:
        num_in_ch: input channels.
        num_feat: channels after the first convolution; doubled at each further one, at most eight times as many.
        num_layers: steps down.
    """

    def __init__(self, *, num_in_ch: int = 3, num_feat: int = 64, num_layers: Annotated[int, Range(1)] = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, num_feat, 4, stride=2, padding=1), nn.LeakyReLU(0.2, True)]
        width = num_feat
        for step in range(1, num_layers + 1):
            out = num_feat * min(2**step, 8)
            stride = 2 if step < num_layers else 1
            layers += [
                nn.Conv2d(width, out, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2, True),
            ]
            width = out
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(B, 1, h, w)` of an image `(B, C, H, W)`; h is H / 2^num_layers - 2."""
        return self.model(x)
