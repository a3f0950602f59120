"""How far a restored image's colours have drifted: the fault of adversarial training that PSNR on luma does not see."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tgsr.config.spec import NonNegativeInt, PositiveInt
from tgsr.metrics.base import METRICS, Metric
from tgsr.metrics.images import check_images, crop, to_8bit, too_small


@METRICS.register()
class ColorDrift(Metric):
    """Mean absolute difference of local mean colours, in 8-bit levels.

    Both images are averaged over squares of `cell` pixels, so detail and noise do not count; a constant shift of one
    channel by d levels gives d / 3.

    Args:
        crop_border: pixels left out on each side.
        cell: edge of the squares in pixels; those that reach over the border are left out, unless the image is smaller.
    """

    higher_is_better = False

    def __init__(self, *, crop_border: NonNegativeInt = 0, cell: PositiveInt = 32) -> None:
        self.crop_border, self.cell = crop_border, cell
        self.protocol = f"RGB, crop {crop_border}, 8-bit levels, means of {cell}x{cell}"

    def too_small(self, height: int, width: int) -> str:
        return too_small(height, width, self.crop_border)

    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        assert gt is not None, "ColorDrift needs the ground truth"
        check_images(restored, gt)
        difference = to_8bit(crop(restored, self.crop_border)) - to_8bit(crop(gt, self.crop_border))
        window = [min(self.cell, side) for side in difference.shape[-2:]]
        return F.avg_pool2d(difference[None], window).abs().mean().item()
