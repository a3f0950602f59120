"""Which network, with which settings, a set of weights belongs to: read from names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Settings = dict[str, Any]


def identify(shapes: Shapes) -> tuple[str, Settings] | None:
    """Name and constructor arguments of the network that has weights of these shapes.

    Only what shapes can tell: SwinIR's `img_range` or HAT's `conv_scale`, for example, are not among the settings.

    Args:
        shapes: weight name (BasicSR's layout) -> shape.

    Returns:
        None when no known network fits.
    """
    for name, signature, read in _NETWORKS:
        if all(key in shapes for key in signature):
            settings = read({k: tuple(v) for k, v in shapes.items()})
            if settings is not None:
                return name, settings
    return None


def _count(keys: Iterable[str], pattern: str) -> int:
    """One more than the highest index that `pattern`'s group takes among the keys; 0 when it takes none."""
    found = [int(match.group(1)) for key in keys if (match := re.match(pattern, key))]
    return max(found, default=-1) + 1


def _rrdbnet(shapes: Shapes) -> Settings:
    num_feat, channels = shapes["conv_first.weight"][:2]
    num_out = shapes["conv_last.weight"][0]
    fold = {16: 1, 4: 2}.get(channels // num_out, 4)
    return {
        "num_in_ch": channels // (4 // fold) ** 2,
        "num_out_ch": num_out,
        "scale": fold,
        "num_feat": num_feat,
        "num_block": _count(shapes, r"body\.(\d+)\."),
        "num_grow_ch": shapes["body.0.rdb1.conv1.weight"][0],
    }


def _msrresnet(shapes: Shapes) -> Settings:
    num_feat, num_in = shapes["conv_first.weight"][:2]
    upscale = 1
    for index in range(1, _count(shapes, r"upconv(\d+)\.")):
        upscale *= math.isqrt(shapes[f"upconv{index}.weight"][0] // num_feat)
    return {
        "num_in_ch": num_in,
        "num_out_ch": shapes["conv_last.weight"][0],
        "num_feat": num_feat,
        "num_block": _count(shapes, r"body\.(\d+)\."),
        "upscale": upscale,
    }


def _light_sr(shapes: Shapes) -> Settings | None:
    if {key.split(".")[0] for key in shapes} != {"conv_first", "body", "conv_last"}:
        return None
    num_feat, num_in = shapes["conv_first.weight"][:2]
    return {
        "num_in_ch": num_in,
        "num_out_ch": num_in,
        "num_feat": num_feat,
        "num_block": _count(shapes, r"body\.(\d+)\."),
        "upscale": math.isqrt(shapes["conv_last.weight"][0] // num_in),
    }


def _srvgg(shapes: Shapes) -> Settings:
    convs = sorted((int(k.split(".")[1]) for k, v in shapes.items() if len(v) == 4))
    num_feat, num_in = shapes["body.0.weight"][:2]
    return {
        "num_in_ch": num_in,
        "num_out_ch": num_in,
        "num_feat": num_feat,
        "num_conv": len(convs) - 2,
        "upscale": math.isqrt(shapes[f"body.{convs[-1]}.weight"][0] // num_in),
    }


def _unet_discriminator(shapes: Shapes) -> Settings:
    num_feat, num_in = shapes["conv0.weight"][:2]
    return {"num_in_ch": num_in, "num_feat": num_feat}


def _vgg_discriminator(shapes: Shapes) -> Settings:
    num_feat, num_in = shapes["conv0_0.weight"][:2]
    return {"num_in_ch": num_in, "num_feat": num_feat, "input_size": 256 if "conv5_0.weight" in shapes else 128}


def _restormer(shapes: Shapes) -> Settings:
    dim, num_in = shapes["patch_embed.proj.weight"][:2]
    stages = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    return {
        "inp_channels": num_in,
        "out_channels": shapes["output.weight"][0],
        "dim": dim,
        "num_blocks": [_count(shapes, rf"{stage}\.(\d+)\.") for stage in stages],
        "num_refinement_blocks": _count(shapes, r"refinement\.(\d+)\."),
        "heads": [shapes[f"{stage}.0.attn.temperature"][0] for stage in stages],
        "bias": "output.bias" in shapes,
        "LayerNorm_type": "WithBias" if "encoder_level1.0.norm1.body.bias" in shapes else "BiasFree",
    }


def _transformer(shapes: Shapes, table: str) -> Settings:
    """What SwinIR and HAT share; `table` ends the name of a block's table of relative position biases."""
    embed_dim, num_in = shapes["conv_first.weight"][:2]
    depths, heads, window = [], [], 1
    for layer in range(_count(shapes, r"layers\.(\d+)\.")):
        group = rf"layers\.{layer}\.residual_group\.blocks\.(\d+)\."
        depths.append(_count(shapes, group))
        rows, num_heads = shapes[f"layers.{layer}.residual_group.blocks.0.{table}"]
        heads.append(num_heads)
        window = (math.isqrt(rows) + 1) // 2
    hidden = shapes["layers.0.residual_group.blocks.0.mlp.fc1.weight"][0]
    upscale, upsampler = _transformer_upsampling(shapes, num_in)
    return {
        "upscale": upscale,
        "in_chans": num_in,
        "window_size": window,
        "depths": depths,
        "embed_dim": embed_dim,
        "num_heads": heads,
        "mlp_ratio": hidden / embed_dim,
        "upsampler": upsampler,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in shapes else "1conv",
    }


def _transformer_upsampling(shapes: Shapes, num_in: int) -> tuple[int, str]:
    if "conv_up1.weight" in shapes:
        return 2 ** (_count(shapes, r"conv_up(\d)\.") - 1), "nearest+conv"
    if "conv_before_upsample.0.weight" in shapes:
        upscale = 1
        for index in range(0, _count(shapes, r"upsample\.(\d+)\."), 2):
            upscale *= math.isqrt(shapes[f"upsample.{index}.weight"][0] // shapes[f"upsample.{index}.weight"][1])
        return upscale, "pixelshuffle"
    if "upsample.0.weight" in shapes:
        return math.isqrt(shapes["upsample.0.weight"][0] // num_in), "pixelshuffledirect"
    return 1, ""


def _swinir(shapes: Shapes) -> Settings:
    return _transformer(shapes, "attn.relative_position_bias_table")


def _hat(shapes: Shapes) -> Settings:
    settings = _transformer(shapes, "attn.relative_position_bias_table")
    first = "layers.0.residual_group.blocks.0.conv_block.cab."
    dim = settings["embed_dim"]
    rows = shapes["layers.0.residual_group.overlap_attn.relative_position_bias_table"][0]
    window = settings["window_size"]
    settings["compress_ratio"] = dim // shapes[f"{first}0.weight"][0]
    settings["squeeze_factor"] = dim // shapes[f"{first}3.attention.1.weight"][0]
    settings["overlap_ratio"] = (math.isqrt(rows) + 1 - 2 * window) / window
    return settings


_NETWORKS: tuple[tuple[str, tuple[str, ...], Callable[[Shapes], Settings | None]], ...] = (
    ("RRDBNet", ("conv_first.weight", "body.0.rdb1.conv1.weight", "conv_up2.weight", "conv_last.weight"), _rrdbnet),
    ("MSRResNet", ("conv_first.weight", "body.0.conv1.weight", "conv_hr.weight", "conv_last.weight"), _msrresnet),
    ("LightSR", ("conv_first.weight", "body.0.conv1.weight", "conv_last.weight"), _light_sr),
    ("SRVGGNetCompact", ("body.0.weight", "body.2.weight"), _srvgg),
    ("UNetDiscriminatorSN", ("conv0.weight", "conv1.weight_orig", "conv9.weight"), _unet_discriminator),
    ("VGGStyleDiscriminator", ("conv0_0.weight", "linear2.weight"), _vgg_discriminator),
    ("Restormer", ("patch_embed.proj.weight", "encoder_level1.0.attn.temperature"), _restormer),
    ("HAT", ("conv_first.weight", "layers.0.residual_group.overlap_attn.relative_position_bias_table"), _hat),
    ("SwinIR", ("conv_first.weight", "layers.0.residual_group.blocks.0.attn.relative_position_bias_table"), _swinir),
)
