"""PSNR and SSIM with the values of BasicSR and MATLAB."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from tgsr.config.spec import NonNegativeInt
from tgsr.metrics.base import METRICS, Metric
from tgsr.metrics.images import BT601, Color, check_images, crop, describe, luma, to_8bit, too_small

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
WINDOW, WINDOW_SIGMA_PX = 11, 1.5
STRIP = 64
"""Rows of the SSIM map that are worked on at a time."""


@METRICS.register()
class PSNR(Metric):
    """Peak signal-to-noise ratio in dB of 8-bit images; inf for equal ones.

    Args:
        crop_border: pixels left out on each side.
        color: `y` (BT.601 luma) or `rgb`.
    """

    higher_is_better = True

    def __init__(self, *, crop_border: NonNegativeInt = 0, color: Color = "y") -> None:
        self.crop_border, self.color = crop_border, color
        self.protocol = describe(color, crop_border)

    def too_small(self, height: int, width: int) -> str:
        return too_small(height, width, self.crop_border)

    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        assert gt is not None, "PSNR needs the ground truth"
        check_images(restored, gt)
        difference = to_8bit(crop(restored, self.crop_border)).sub_(to_8bit(crop(gt, self.crop_border)))
        if self.color == "y" and len(difference) == 3:  # luma is linear: a weighted sum of whole differences
            red, green, blue = (weight / 255 for weight in BT601)
            difference = difference[0].mul_(red).add_(difference[1], alpha=green).add_(difference[2], alpha=blue)
        mse = torch.linalg.vector_norm(difference, dtype=torch.float64).item() ** 2 / difference.numel()
        return 10 * math.log10(255**2 / mse) if mse else math.inf


@METRICS.register()
class SSIM(Metric):
    """Structural similarity: 11x11 Gaussian window of sigma 1.5 px, valid region only; RGB: mean over channels.

    Args:
        crop_border: pixels left out on each side.
        color: `y` (BT.601 luma) or `rgb`.
    """

    higher_is_better = True

    def __init__(self, *, crop_border: NonNegativeInt = 0, color: Color = "y") -> None:
        self.crop_border, self.color = crop_border, color
        self.protocol = describe(color, crop_border)
        self._window = cv2.getGaussianKernel(WINDOW, WINDOW_SIGMA_PX)

    def too_small(self, height: int, width: int) -> str:
        return too_small(height, width, self.crop_border, WINDOW)

    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        assert gt is not None, "SSIM needs the ground truth"
        check_images(restored, gt)
        images = [to_8bit(crop(image, self.crop_border, smallest=WINDOW)) for image in (restored, gt)]
        if self.color == "y":
            images = [luma(image)[None] for image in images]
        if restored.is_cuda:
            return _ssim_torch(images[0].double(), images[1].double(), torch.from_numpy(self._window)).item()
        channels = zip(*(image.cpu().double().numpy() for image in images), strict=True)
        return float(np.mean([_ssim_opencv(x, y, self._window) for x, y in channels]))


def _ssim_opencv(x: np.ndarray, y: np.ndarray, window: np.ndarray) -> float:
    """SSIM of two `(H, W)` fp64 planes, 0 to 255, a strip at a time so that the work stays in the cache."""
    rows, columns = (side - WINDOW + 1 for side in x.shape)
    total = 0.0
    for start in range(0, rows, STRIP):
        strip = slice(start, start + STRIP + WINDOW - 1)
        total += _ssim_sum(x[strip], y[strip], window)
    return total / (rows * columns)


def _ssim_sum(x: np.ndarray, y: np.ndarray, window: np.ndarray) -> float:
    """Sum of the SSIM map over the valid region; four filters, since only the sum of the variances is needed."""
    radius = WINDOW // 2

    def blur(plane: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(plane, cv2.CV_64F, window, window)[radius:-radius, radius:-radius]

    mean_x, mean_y = blur(x), blur(y)
    product, squares = mean_x * mean_y, mean_x * mean_x
    squares += mean_y * mean_y
    structure = blur(x * y)
    structure -= product
    variances = blur(x * x + y * y)
    variances -= squares
    for plane, factor, constant in ((structure, 2, C2), (product, 2, C1), (variances, 1, C2), (squares, 1, C1)):
        plane *= factor
        plane += constant
    structure *= product
    variances *= squares
    return float(np.sum(np.divide(structure, variances, out=structure)))


def _ssim_torch(x: torch.Tensor, y: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """The same on the images' device for `(C, H, W)` fp64, mean over channels, 0-dim."""
    window = window.to(x).flatten()
    planes = torch.stack([x, y, x * y, x * x + y * y]).flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    mean_x, mean_y, mean_xy, mean_squares = blurred.view(4, -1).unbind()
    product, squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    structure = (2 * (mean_xy - product) + C2) / (mean_squares - squares + C2)
    return ((2 * product + C1) / (squares + C1) * structure).mean()
