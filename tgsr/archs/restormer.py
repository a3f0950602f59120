"""Restormer: a U-shaped transformer whose attention runs over channels (Zamir et al., CVPR 2022).

Written from the paper's description; parameter names are the official checkpoints'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import CheckpointedBlock, RestorationNetwork

Norm = Literal["WithBias", "BiasFree"]


class _ChannelNorm(nn.Module):
    """Normalises each pixel over its channels (eps 1e-5); without bias the mean stays in."""

    def __init__(self, dim: int, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        if self.bias is not None:
            x = F.layer_norm(x, self.weight.shape, self.weight, self.bias)
        else:
            x = x * torch.rsqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.weight
        return x.permute(0, 3, 1, 2)


class _Norm(nn.Module):
    def __init__(self, dim: int, kind: Norm) -> None:
        super().__init__()
        self.body = _ChannelNorm(dim, kind == "WithBias")

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _ChannelAttention(nn.Module):
    """Multi-head attention between channels: the map is (C / heads)^2 per head, whatever the image's size (eq. 1)."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv_dwconv(self.qkv(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        query, key, value = qkv.unbind(1)
        scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        attended = (scores * self.temperature).softmax(dim=-1) @ value
        return self.project_out(attended.reshape(batch, channels, height, width))


class _GatedFeedForward(nn.Module):
    """One half of the widened channels gates the other (eq. 2)."""

    def __init__(self, dim: int, expansion: float, bias: bool) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class _Block(CheckpointedBlock):
    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, norm: Norm) -> None:
        super().__init__()
        self.norm1 = _Norm(dim, norm)
        self.attn = _ChannelAttention(dim, heads, bias)
        self.norm2 = _Norm(dim, norm)
        self.ffn = _GatedFeedForward(dim, expansion, bias)

    def compute(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class _Resample(nn.Module):
    """A convolution and a pixel (un)shuffle by 2: half the size and twice the channels, or the reverse."""

    def __init__(self, dim: int, *, is_down: bool) -> None:
        super().__init__()
        out, shuffle = (dim // 2, nn.PixelUnshuffle(2)) if is_down else (dim * 2, nn.PixelShuffle(2))
        self.body = nn.Sequential(nn.Conv2d(dim, out, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class _PatchEmbed(nn.Module):
    def __init__(self, num_in: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(num_in, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


@ARCHS.register()
class Restormer(RestorationNetwork):
    """Three steps down and up with concatenated skips, refinement at full size, output added to the input.

    Sizes stay equal: scale 1.

    Args:
        inp_channels: input channels.
        out_channels: output channels.
        dim: channels at full size; doubled at each step down.
        num_blocks: transformer blocks of the four levels.
        num_refinement_blocks: blocks after the decoder.
        heads: attention heads of the four levels.
        ffn_expansion_factor: hidden width of the feed-forward part divided by its input's.
        bias: biases in the convolutions of the blocks and the output.
        LayerNorm_type: normalisation with mean and bias, or without both.
        dual_pixel_task: dual-pixel defocus deblurring: 6 input channels, no input added to the output.
    """

    size_multiple = 8
    supports_activation_checkpointing = True

    def __init__(
        self,
        *,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: Norm = "WithBias",  # noqa: N803 (the official option's name)
        dual_pixel_task: bool = False,
    ) -> None:
        super().__init__()

        def level(index: int, width: int, count: int) -> nn.Sequential:
            block = (width, heads[index], ffn_expansion_factor, bias, LayerNorm_type)
            return nn.Sequential(*(_Block(*block) for _ in range(count)))

        self.patch_embed = _PatchEmbed(inp_channels, dim)
        self.encoder_level1 = level(0, dim, num_blocks[0])
        self.down1_2 = _Resample(dim, is_down=True)
        self.encoder_level2 = level(1, 2 * dim, num_blocks[1])
        self.down2_3 = _Resample(2 * dim, is_down=True)
        self.encoder_level3 = level(2, 4 * dim, num_blocks[2])
        self.down3_4 = _Resample(4 * dim, is_down=True)
        self.latent = level(3, 8 * dim, num_blocks[3])
        self.up4_3 = _Resample(8 * dim, is_down=False)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1, bias=bias)
        self.decoder_level3 = level(2, 4 * dim, num_blocks[2])
        self.up3_2 = _Resample(4 * dim, is_down=False)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=bias)
        self.decoder_level2 = level(1, 2 * dim, num_blocks[1])
        self.up2_1 = _Resample(2 * dim, is_down=False)
        self.decoder_level1 = level(0, 2 * dim, num_blocks[0])
        self.refinement = level(0, 2 * dim, num_refinement_blocks)
        self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def compute(self, x: Tensor) -> Tensor:
        embedded = self.patch_embed(x)
        level1 = self.encoder_level1(embedded)
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        out = self.up4_3(self.latent(self.down3_4(level3)))
        out = self.decoder_level3(self.reduce_chan_level3(torch.cat((out, level3), 1)))
        out = self.decoder_level2(self.reduce_chan_level2(torch.cat((self.up3_2(out), level2), 1)))
        out = self.refinement(self.decoder_level1(torch.cat((self.up2_1(out), level1), 1)))
        if self.skip_conv is not None:
            return self.output(out + self.skip_conv(embedded))
        return self.output(out) + x
