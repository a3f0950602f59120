"""From `[0, 1]` RGB tensors to the 8-bit values that metrics are defined on."""

from __future__ import annotations

from typing import Literal

import torch

from tgsr.utils.errors import DataError
from tgsr.utils.luma import BT601

Color = Literal["y", "rgb"]

__all__ = ["BT601", "Color", "check_images", "crop", "describe", "luma", "to_8bit", "too_small"]


def check_images(restored: torch.Tensor, gt: torch.Tensor | None) -> None:
    """DataError when the images are not floats of one size, `(3, H, W)` or, for luma alone, `(1, H, W)`."""
    for name, image in (("restored image", restored), ("ground truth", gt)):
        if image is not None and (image.dim() != 3 or image.shape[0] not in (1, 3) or not image.is_floating_point()):
            problem = f"{name}: {image.dtype} {tuple(image.shape)}"
            raise DataError(problem, remedy="metrics take (3, H, W) RGB or (1, H, W) luma in [0, 1]")
    if gt is not None and restored.shape != gt.shape:
        sizes = " and ".join(f"{i.shape[2]}x{i.shape[1]}" for i in (restored, gt))
        raise DataError(f"restored image and ground truth differ in size: {sizes} (WxH)")


def too_small(height: int, width: int, border: int, smallest: int = 1) -> str:
    """What is wrong with an image of which fewer than `smallest` pixels each way remain inside `border`; else empty."""
    if min(height, width) - 2 * border >= smallest:
        return ""
    return f"{width}x{height} is too small: at least {smallest} pixels each way must remain inside the crop of {border}"


def crop(image: torch.Tensor, border: int, *, smallest: int = 1) -> torch.Tensor:
    """View without `border` pixels on each side; DataError when fewer than `smallest` pixels are left."""
    height, width = image.shape[-2:]
    if problem := too_small(height, width, border, smallest):
        raise DataError(problem)
    return image[..., border : height - border, border : width - border] if border else image


def to_8bit(image: torch.Tensor) -> torch.Tensor:
    """Whole numbers 0 to 255 as fp32, rounded half to even as NumPy and BasicSR do."""
    return image.detach().float().clamp(0, 1).mul_(255).round_()


def luma(image_8bit: torch.Tensor) -> torch.Tensor:
    """BT.601 luma `(H, W)`, 16 to 235, unrounded, of `(3, H, W)` values 0 to 255; one channel is luma already."""
    if len(image_8bit) == 1:
        return image_8bit[0]
    red, green, blue = (weight / 255 for weight in BT601)
    return image_8bit[0].mul(red).add_(image_8bit[1], alpha=green).add_(image_8bit[2], alpha=blue).add_(16)


def describe(color: Color, crop_border: int) -> str:
    """The protocol string of a metric on 8-bit values."""
    return f"{'Y (BT.601)' if color == 'y' else 'RGB'}, crop {crop_border}, 8-bit"
