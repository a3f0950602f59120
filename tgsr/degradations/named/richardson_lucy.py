"""R-L: Richardson-Lucy deconvolution of an image that was sharp, with a box as its point spread function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams

PAD_PX = 7
EPSILON = 1e-12


def _ramp(length: int) -> np.ndarray:
    """(length + 2 PAD,) weights: a linear ramp from 0 at the rim to 1 inside."""
    rise = np.arange(PAD_PX) / PAD_PX
    return np.concatenate([rise, np.ones(length), rise[::-1]]).astype(np.float32)


@NAMED.register("rl")
class RichardsonLucy(NamedDegradation):
    """The image is padded by 7 px with a linear ramp to 0, deconvolved from a flat start of 0.5, and cropped again.

    The first iteration from a flat start is a box blur of the padded image, which makes R-L a neighbour of defocus.

    Args:
        num_iters: range of the number of iterations.
        psf_px: range of the odd edge of the box.
    """

    name = "rl"

    def __init__(self, *, num_iters: tuple[int, int] = (1, 1), psf_px: tuple[int, int] = (5, 5)) -> None:
        self.parameters = (
            value_range("rl_num_iters", num_iters, within=(1, 1000), step=1),
            value_range("rl_psf_px", psf_px, within=(1, 255), step=2),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        size = int(row["rl_psf_px"])
        height, width = image.shape[:2]
        padded = cv2.copyMakeBorder(image, PAD_PX, PAD_PX, PAD_PX, PAD_PX, cv2.BORDER_REPLICATE)
        padded = padded * _ramp(height)[:, None, None] * _ramp(width)[None, :, None]

        def box(x: np.ndarray) -> np.ndarray:
            return cv2.blur(x, (size, size), borderType=cv2.BORDER_CONSTANT)

        if int(row["rl_num_iters"]) == 1 and size <= PAD_PX:
            estimate = box(padded)
        else:
            estimate = np.full_like(padded, 0.5)
            for _ in range(int(row["rl_num_iters"])):
                estimate = estimate * box(padded / (box(estimate) + EPSILON))
        return estimate[PAD_PX : PAD_PX + height, PAD_PX : PAD_PX + width]

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        height, width = images.shape[-2:]
        ramp = torch.from_numpy(np.outer(_ramp(height), _ramp(width))).to(images.device, non_blocking=True)
        padded = F.pad(images, (PAD_PX,) * 4, mode="replicate") * ramp
        out = torch.empty_like(images)
        settings = np.stack([params["rl_psf_px"], params["rl_num_iters"]], axis=1).astype(int)
        for size, num_iters in np.unique(settings, axis=0).tolist():
            index = torch.from_numpy(np.flatnonzero((settings == (size, num_iters)).all(axis=1)))
            index = index.to(images.device, non_blocking=True)
            some = padded[index]
            estimate = torch.full_like(some, 0.5)
            for _ in range(num_iters):
                estimate = estimate * _box(some / (_box(estimate, size) + EPSILON), size)
            out[index] = estimate[..., PAD_PX : PAD_PX + height, PAD_PX : PAD_PX + width]
        return out


def _box(images: torch.Tensor, size: int) -> torch.Tensor:
    """Box mean with zeros outside."""
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=True)
