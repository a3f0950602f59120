"""What every restoration network says of itself, and the two things all of them share: padding and checkpointing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tgsr.utils.errors import ConfigError


class RestorationNetwork(nn.Module):
    """A network from an LQ image to an image `scale` times as large; subclasses write `compute`.

    `forward` takes any size: it pads to `size_multiple` by reflection and crops the result.

    Attributes:
        scale: output size divided by input size; None where an adapter cannot tell.
        size_multiple: `compute` needs a height and width that are multiples of this. Tiles whose corners lie on
            multiples of it see the same windows as the whole image.
        receptive_field: width in LQ pixels of what one output pixel sees, always odd: `2 * r + 1`, where an overlap of
            r makes tiles exact. None where it has no useful bound (attention).
        supports_activation_checkpointing: whether `activation_checkpointing` may be switched on.
    """

    scale: int = 1
    size_multiple: int = 1
    receptive_field: int | None = None
    supports_activation_checkpointing: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Restore a batch.

        Args:
            x: (B, C, H, W), RGB in [0, 1].

        Returns:
            (B, C, H * scale, W * scale), not clipped.
        """
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.size_multiple)
        out = self.compute(padded)
        if padded is not x:
            out = out[..., : height * self.scale, : width * self.scale]
        return out

    def compute(self, x: Tensor) -> Tensor:
        """The network itself, for a size that is a multiple of `size_multiple`."""
        raise NotImplementedError

    @property
    def activation_checkpointing(self) -> bool:
        """Whether blocks recompute their activations in the backward pass: less memory, about a third more time."""
        return any(block.checkpointing for block in _checkpointed(self))

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        if value and not self.supports_activation_checkpointing:
            raise ConfigError(
                f"{type(self).__name__} has no activation checkpointing", remedy="set activation_checkpointing: false"
            )
        for block in _checkpointed(self):
            block.checkpointing = bool(value)


class CheckpointedBlock(nn.Module):
    """A block that can drop its activations and compute them again in the backward pass; subclasses write `compute`."""

    checkpointing: bool = False

    def forward(self, *args: Any) -> Any:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.compute, *args, use_reentrant=False)
        return self.compute(*args)

    def compute(self, *args: Any) -> Any:
        raise NotImplementedError


def _checkpointed(net: nn.Module) -> list[CheckpointedBlock]:
    return [m for m in net.modules() if isinstance(m, CheckpointedBlock)]


def as_outputs(output: object) -> dict[str, Tensor]:
    """A network's return value by name, in fp32 whatever the precision it was computed in.

    Args:
        output: the restored image, or a mapping that holds it as `sr` beside the network's own extras.

    Raises:
        ConfigError: it is neither.
    """
    named = {"sr": output} if isinstance(output, Tensor) else output
    if not isinstance(named, Mapping) or "sr" not in named:
        found = f"a mapping of {', '.join(map(str, named))}" if isinstance(named, Mapping) else type(output).__name__
        raise ConfigError(
            f"the network returns {found}",
            place="network_g",
            remedy="return a tensor, or a mapping that holds the restored image as 'sr'",
        )
    return {name: value.float() for name, value in named.items()}


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad right and bottom to a multiple, by reflection (by repetition where the image is too small to reflect)."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return x
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)


def init_residual(modules: Iterable[nn.Module], *, scale: float = 0.1) -> None:
    """Kaiming normal weights times `scale`, zero biases: BasicSR's start for residual branches."""
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            with torch.no_grad():
                module.weight.mul_(scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def radius_below(radius: int, factor: int) -> int:
    """A radius above a nearest or pixel-shuffle upsampling by `factor`, seen from below it."""
    return math.ceil(radius / factor)


def conv3(num_in: int, num_out: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(num_in, num_out, 3, padding=1)
