"""SwinIR and HAT through spandrel, which carries the official modules; imported when one of them is first built.

Defaults are the official classes', so that an option file that leaves something out means the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any, Literal

from torch import Tensor, nn

from tgsr.archs import ARCHS
from tgsr.archs.base import CheckpointedBlock, RestorationNetwork
from tgsr.utils.errors import ConfigError


@ARCHS.register("SwinIR")
def swinir(
    *,
    upscale: int = 4,
    in_chans: int = 3,
    img_size: int = 64,
    window_size: int = 7,
    img_range: float = 1.0,
    depths: Sequence[int] = (6, 6, 6, 6),
    embed_dim: int = 96,
    num_heads: Sequence[int] = (6, 6, 6, 6),
    mlp_ratio: float = 4.0,
    upsampler: Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", ""] | None = "nearest+conv",
    resi_connection: Literal["1conv", "3conv"] = "1conv",
    drop_path_rate: float = 0.1,
    patch_size: int = 1,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    ape: bool = False,
    patch_norm: bool = True,
    use_checkpoint: bool = False,
) -> RestorationNetwork:
    """SwinIR (Liang et al., 2021): attention in shifted windows.

    Args:
        upscale: output size divided by input size.
        in_chans: input and output channels.
        img_size: training patch in LQ pixels; other sizes work too.
        window_size: attention window.
        img_range: range the network works in; 1 or 255.
        depths: blocks of each group.
        embed_dim: channels.
        num_heads: attention heads of each group.
        mlp_ratio: hidden width of the MLP divided by embed_dim.
        upsampler: classical, light, real-world; empty or null for equal size.
        resi_connection: convolutions that end each group.
        drop_path_rate: stochastic depth of the last block.
        patch_size: 1.
        qkv_bias: biases in query, key and value.
        qk_scale: null for the usual 1 / sqrt(head width).
        drop_rate: dropout.
        attn_drop_rate: dropout of the attention.
        ape: absolute position embedding; ties the network to img_size.
        patch_norm: normalise the embedding.
        use_checkpoint: the same as train.activation_checkpointing.
    """
    arguments = _checked(locals())
    return _build("SwinIR", ("SwinTransformerBlock",), {**arguments, "upsampler": upsampler or ""}, use_checkpoint)


@ARCHS.register("HAT")
def hat(
    *,
    upscale: int = 4,
    in_chans: int = 3,
    img_size: int = 64,
    window_size: int = 7,
    compress_ratio: int = 3,
    squeeze_factor: int = 30,
    conv_scale: float = 0.01,
    overlap_ratio: float = 0.5,
    img_range: float = 1.0,
    depths: Sequence[int] = (6, 6, 6, 6),
    embed_dim: int = 96,
    num_heads: Sequence[int] = (6, 6, 6, 6),
    mlp_ratio: float = 4.0,
    upsampler: Literal["pixelshuffle"] = "pixelshuffle",
    resi_connection: Literal["1conv", "identity"] = "1conv",
    drop_path_rate: float = 0.1,
    patch_size: int = 1,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    ape: bool = False,
    patch_norm: bool = True,
    use_checkpoint: bool = False,
) -> RestorationNetwork:
    """HAT (Chen et al., 2023): shifted and overlapping windows, channel attention beside them.

    Args:
        upscale: output size divided by input size.
        in_chans: input and output channels.
        img_size: training patch in LQ pixels; other sizes work too.
        window_size: attention window.
        compress_ratio: narrowing inside the channel attention block.
        squeeze_factor: narrowing inside its gate.
        conv_scale: weight of the channel attention block.
        overlap_ratio: how far the overlapping windows reach over their neighbours.
        img_range: range the network works in; 1 or 255.
        depths: blocks of each group.
        embed_dim: channels.
        num_heads: attention heads of each group.
        mlp_ratio: hidden width of the MLP divided by embed_dim.
        upsampler: pixelshuffle.
        resi_connection: what ends each group.
        drop_path_rate: stochastic depth of the last block.
        patch_size: 1.
        qkv_bias: biases in query, key and value.
        qk_scale: null for the usual 1 / sqrt(head width).
        drop_rate: dropout.
        attn_drop_rate: dropout of the attention.
        ape: absolute position embedding; ties the network to img_size.
        patch_norm: normalise the embedding.
        use_checkpoint: the same as train.activation_checkpointing.
    """
    return _build("HAT", ("HAB", "OCAB"), _checked(locals()), use_checkpoint)


def _checked(arguments: dict[str, Any]) -> dict[str, Any]:
    if len(arguments["depths"]) != len(arguments["num_heads"]):
        raise ConfigError(
            f"depths has {len(arguments['depths'])} entries, num_heads {len(arguments['num_heads'])}",
            remedy="one of each per group",
        )
    if any(arguments["embed_dim"] % heads for heads in arguments["num_heads"]):
        raise ConfigError(f"embed_dim {arguments['embed_dim']} cannot be split into the heads {arguments['num_heads']}")
    return {k: v for k, v in arguments.items() if k != "use_checkpoint"}


def _build(name: str, blocks: tuple[str, ...], arguments: dict[str, Any], use_checkpoint: bool) -> RestorationNetwork:
    net = _network_class(name)(**arguments)
    net.scale = arguments["upscale"]
    net.size_multiple = arguments["window_size"]
    for module in list(net.modules()):
        if type(module).__name__ in blocks:
            module.__class__ = _checkpointed_class(type(module))
    net.activation_checkpointing = use_checkpoint
    return net


@cache
def _network_class(name: str) -> type[RestorationNetwork]:
    """spandrel's class as a RestorationNetwork with the same weights' names."""
    try:
        library = getattr(import_module(f"spandrel.architectures.{name}"), name)
    except ImportError as error:
        raise ConfigError(f"{name} needs spandrel ({error})", remedy="pip install spandrel") from None

    def __init__(self: nn.Module, **arguments: Any) -> None:  # noqa: N807
        library.__init__(self, **arguments)
        mean = self.mean
        del self.mean
        self.register_buffer("mean", mean, persistent=False)  # moves with the network, absent from its weights

    def compute(self: nn.Module, x: Tensor) -> Tensor:
        return library.forward(self, x)

    members = {"__init__": __init__, "compute": compute, "supports_activation_checkpointing": True}
    return type(name, (RestorationNetwork, library), {**members, "__doc__": library.__doc__})


@cache
def _checkpointed_class(library: type[nn.Module]) -> type[nn.Module]:
    return type(library.__name__, (CheckpointedBlock, library), {"compute": library.forward})
