"""The two networks of Cria-CL: two branches blended by spatial masks, as in the paper, and as in the published weights.

Both return a mapping: `sr` (the result), `align` and `unif` (what the alignment and the uniformity criteria look at)
and, where there is one, `mask` (S of equation 10, `(B, 1, H, W)`; the other branch has 1 - S).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import RestorationNetwork, conv3, init_residual, radius_below
from tgsr.archs.rrdbnet import RRDB

NUM_UPSAMPLINGS = {1: 0, 2: 1, 4: 2}
SLOPE = 0.2


class ResidualBlock(nn.Module):
    """conv - LeakyReLU - conv, added to the input (by a 1x1 convolution where the channels differ)."""

    def __init__(self, num_in: int, num_feat: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3(num_in, num_feat), conv3(num_feat, num_feat)
        self.skip = nn.Identity() if num_in == num_feat else nn.Conv2d(num_in, num_feat, 1)
        init_residual((self.conv2,))

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.conv2(F.leaky_relu(self.conv1(x), SLOPE, inplace=True))


class _Trunk(RestorationNetwork):
    """What both networks share: RRDBs at the input's size, then as many steps of nearest upsampling as the scale asks.

    The last convolution before the branches and the two of the upsampling are there at every scale: without
    interpolation (scale 1) this is the form for pairs of equal size (CameraSR).
    """

    supports_activation_checkpointing = True

    def _set_scale(self, scale: int, num_block: int, radius_above: int, radius_before: int = 0) -> None:
        """Args:
        radius_above: of all convolutions at the output's size after the two of the upsampling.
        radius_before: of those between the RRDBs and the upsampling.
        """
        self.scale = scale
        self.num_upsamplings = NUM_UPSAMPLINGS[scale]
        radius = radius_above
        for step in (1, 0):
            radius = 1 + radius
            if step < self.num_upsamplings:
                radius = radius_below(radius, 2)
        self.receptive_field = 2 * (2 + 15 * num_block + radius_before + radius) + 1

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        """`(B, C, h, w)` -> `sr`, `align`, `unif` `(B, C, H, W)`, not clipped, and `mask` `(B, 1, H, W)` where made."""
        return self.compute(x)  # type: ignore[return-value]

    def _enlarge(self, features: Tensor, convs: tuple[nn.Module, nn.Module]) -> Tensor:
        for step, conv in enumerate(convs):
            if step < self.num_upsamplings:
                features = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(conv(features), SLOPE, inplace=True)
        return features


class _MaskNetwork(nn.Module):
    """F_beta: three residual blocks on the input, an enlargement, two channels, softmax over them -> S.

    Args:
        num_in_ch: input channels.
        num_feat: channels of the blocks.
        scale: of the enlargement.
        shuffle: enlarge by convolutions and pixel shuffles; else bilinear.
    """

    def __init__(self, num_in_ch: int, num_feat: int, scale: int, *, shuffle: bool) -> None:
        super().__init__()
        self.scale = 1 if shuffle else scale
        blocks: list[nn.Module] = [
            ResidualBlock(num_in_ch, num_feat),
            *(ResidualBlock(num_feat, num_feat) for _ in range(2)),
        ]
        steps = NUM_UPSAMPLINGS[scale] if shuffle else 0
        for _ in range(steps):
            blocks += [conv3(num_feat, 4 * num_feat), nn.PixelShuffle(2), nn.LeakyReLU(SLOPE, True)]
        self.blocks = nn.Sequential(*blocks)
        self.to_masks = conv3(num_feat, 2)
        init_residual((self.to_masks,))  # starts near S = 1/2: both branches learn

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(x)
        if self.scale > 1:
            features = F.interpolate(features, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.to_masks(features).float().softmax(1)[:, :1]


@ARCHS.register()
class CriaCLPaper(_Trunk):
    """The network of the paper: F_alpha (equation 4) and the spatial-view projection F_beta (equation 10).

    F_alpha is an RRDB trunk and two branches of three residual blocks that make I_align and I_unif;
    I_SR = S * I_align + (1 - S) * I_unif. The paper leaves open where the branches begin. `late`: after ESRGAN's
    upsampling, which both share. `early`: at the end of the RRDBs, each with an upsampling of its own and without
    `conv_hr`, S enlarged by pixel shuffles; of the arrangements tried the one that has the 14.8 M parameters of Table
    VII (at 19 RRDBs) and costs less than ESRGAN. Names are ESRGAN's up to the branches, so its weights initialise the
    trunk (`path.strict_load_g: false`).

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels.
        scale: output size divided by input size; 1: CameraSR's pairs.
        num_feat: channels of trunk and branches.
        num_block: RRDBs; the paper states none, 20 come nearest to its 14.8 M parameters with late branches.
        num_grow_ch: channels that each convolution of a dense block adds.
        spatial_view: False: no F_beta, S = 1/2 everywhere and no `mask` among the outputs (rows 1 to 5 of Table V).
        mask_feat: channels of F_beta; None: `num_feat`.
        branches: `late` or `early`.
    """

    def __init__(
        self,
        *,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        scale: Literal[1, 2, 4] = 4,
        num_feat: int = 64,
        num_block: int = 20,
        num_grow_ch: int = 32,
        spatial_view: bool = True,
        mask_feat: int | None = None,
        branches: Literal["late", "early"] = "late",
    ) -> None:
        super().__init__()
        self.is_early = branches == "early"
        self._set_scale(
            scale, num_block, radius_above=1 if self.is_early else 1 + 6 + 1, radius_before=6 if self.is_early else 0
        )
        self.conv_first = conv3(num_in_ch, num_feat)
        self.body = nn.Sequential(*(RRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv3(num_feat, num_feat)
        if not self.is_early:
            self.conv_up1, self.conv_up2 = conv3(num_feat, num_feat), conv3(num_feat, num_feat)
            self.conv_hr = conv3(num_feat, num_feat)
        self.branch_align = _branch(num_feat, num_out_ch)
        self.branch_unif = _branch(num_feat, num_out_ch)
        if self.is_early:
            self.up_align, self.up_unif = (
                nn.ModuleList([conv3(num_feat, num_feat), conv3(num_feat, num_feat)]) for _ in range(2)
            )
        self.masks = (
            _MaskNetwork(num_in_ch, mask_feat or num_feat, scale, shuffle=self.is_early) if spatial_view else None
        )

    def compute(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.conv_first(x)
        features = features + self.conv_body(self.body(features))
        if self.is_early:
            align, unif = (
                branch[-1](self._enlarge(branch[:-1](features), tuple(convs)))
                for branch, convs in ((self.branch_align, self.up_align), (self.branch_unif, self.up_unif))
            )
        else:
            features = self._enlarge(features, (self.conv_up1, self.conv_up2))
            features = F.leaky_relu(self.conv_hr(features), SLOPE, inplace=True)
            align, unif = self.branch_align(features), self.branch_unif(features)
        if self.masks is None:
            return {"sr": (align + unif) / 2, "align": align, "unif": unif}
        mask = self.masks(x)
        return {"sr": mask * align + (1 - mask) * unif, "align": align, "unif": unif, "mask": mask}


def _branch(num_feat: int, num_out_ch: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(num_feat, num_feat) for _ in range(3)), conv3(num_feat, num_out_ch))


class _ReleasedBlock(nn.Module):
    """conv - LeakyReLU - conv - LeakyReLU plus a 1x1 convolution of the input, under the published names."""

    def __init__(self, num_in: int, num_feat: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3(num_in, num_feat), nn.LeakyReLU(SLOPE, True), conv3(num_feat, num_feat), nn.LeakyReLU(SLOPE, True)
        )
        self.conv = nn.Conv2d(num_in, num_feat, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.block(x)


class _ReleasedRRDB(RRDB):
    """An RRDB whose dense blocks are called RDB1 to RDB3."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__(num_feat, num_grow_ch)
        for index in (1, 2, 3):
            self.add_module(f"RDB{index}", self._modules.pop(f"rdb{index}"))

    def compute(self, x: Tensor) -> Tensor:
        return torch.add(x, self.RDB3(self.RDB2(self.RDB1(x))), alpha=0.2)


@ARCHS.register(aliases=("CCLRRDBNet",))
class CriaCLReleased(_Trunk):
    """The topology of the authors' published weights, by their names; 17,286,473 parameters as published.

    A whole ESRGAN makes an image; two branches of it, weighted by a softmax over 64 channels and by one minus that,
    are turned into two images whose sum is the result. That softmax is no spatial mask (its mean over channels is
    the same in every pixel), so there is no `mask` among the outputs. `align` and `unif` equal `sr` in value; the
    gradient of each goes into its own branch only. `share` `(B, 1, H, W)` is the first branch's part of the
    result's absolute value, for figures; `out1` and `out2` are the two images whose sum the result is.

    Args:
        num_in_ch: input channels.
        num_out_ch: output channels.
        scale: output size divided by input size; 1: the CameraSR model, without interpolation.
        num_feat: channels.
        num_block: RRDBs.
        num_grow_ch: channels that each convolution of a dense block adds.
    """

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
        self._set_scale(scale, num_block, radius_above=2 + 6 + 1)
        self.conv_first = conv3(num_in_ch, num_feat)
        self.RRDB_trunk = nn.Sequential(*(_ReleasedRRDB(num_feat, num_grow_ch) for _ in range(num_block)))
        self.trunk_conv = conv3(num_feat, num_feat)
        self.upconv1, self.upconv2 = conv3(num_feat, num_feat), conv3(num_feat, num_feat)
        self.HRconv, self.conv_last = conv3(num_feat, num_feat), conv3(num_feat, num_out_ch)
        self.branch1, self.branch2, self.sm = (
            nn.Sequential(_ReleasedBlock(num_out_ch, num_feat), *(_ReleasedBlock(num_feat, num_feat) for _ in range(2)))
            for _ in range(3)
        )
        self.tail_conv1, self.tail_conv2 = conv3(num_feat, num_out_ch), conv3(num_feat, num_out_ch)

    def compute(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        features = self.conv_first(x)
        features = features + self.trunk_conv(self.RRDB_trunk(features))
        features = self._enlarge(features, (self.upconv1, self.upconv2))
        middle = self.conv_last(F.leaky_relu(self.HRconv(features), SLOPE, inplace=True))
        gate = self.sm(middle).softmax(1)
        first = self.tail_conv1(gate * self.branch1(middle))
        second = self.tail_conv2((1 - gate) * self.branch2(middle))
        sizes = [part.detach().abs().mean(1, keepdim=True) for part in (first, second)]
        return {
            "sr": first + second,
            "align": first + second.detach(),
            "unif": first.detach() + second,
            "out1": first,
            "out2": second,
            "share": sizes[0] / (sizes[0] + sizes[1]).clamp_min(1e-8),
        }
