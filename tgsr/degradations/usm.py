"""Unsharp masking of the ground truth as Real-ESRGAN does it, with separable filters."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from torch.nn import functional as F


def sharpen(img: torch.Tensor, *, weight: float = 0.5, radius: int = 51, threshold_255: float = 10.0) -> torch.Tensor:
    """Add `weight` times the detail where it is strong, softly blended in.

    The detail is the image less its Gaussian blur; the mask of detail above the threshold is blurred by the same
    Gaussian. Images on a CPU are filtered by OpenCV, others by two one-dimensional convolutions.

    Args:
        img: `(B, 3, H, W)` or `(3, H, W)` float32 RGB in [0, 1]; H, W > radius // 2.
        weight: strength.
        radius: odd width of the Gaussian in pixels (its sigma is OpenCV's for that width, 8.0 for 51).
        threshold_255: detail below it is left alone.

    Returns:
        The same shape, float32 in [0, 1].
    """
    if img.ndim == 3:
        return sharpen(img[None], weight=weight, radius=radius, threshold_255=threshold_255)[0]
    if img.device.type == "cpu":
        out = torch.empty_like(img, memory_format=torch.contiguous_format)
        for i, sample in enumerate(img):
            hwc = np.ascontiguousarray(sample.permute(1, 2, 0).numpy())
            sharp = sharpen_hwc(hwc, weight=weight, radius=radius, threshold_255=threshold_255)
            out[i] = torch.from_numpy(sharp).permute(2, 0, 1)
        return out
    taps = torch.from_numpy(_taps(radius)).to(img.device, non_blocking=True)
    detail = img - _blur(img, taps)
    soft = _blur((detail.abs() * 255 > threshold_255).to(img.dtype), taps)
    return torch.lerp(img, (img + weight * detail).clamp_(0, 1), soft)


def sharpen_hwc(img: np.ndarray, *, weight: float = 0.5, radius: int = 51, threshold_255: float = 10.0) -> np.ndarray:
    """`sharpen` for one `(H, W, 3)` float32 image."""
    taps = _taps(radius)
    detail = img - cv2.sepFilter2D(img, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    mask = (np.abs(detail) * 255 > threshold_255).astype(np.float32)
    if mask.any():
        soft = cv2.sepFilter2D(mask, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
        soft *= np.clip(img + weight * detail, 0, 1) - img
        return img + soft
    return img.copy()


@lru_cache(maxsize=8)
def _taps(radius: int) -> np.ndarray:
    return cv2.getGaussianKernel(radius, 0).astype(np.float32).reshape(-1)


def _blur(img: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    b, c, h, w = img.shape
    half = len(taps) // 2
    flat = F.pad(img.reshape(b * c, 1, h, w), [half] * 4, mode="reflect")
    return F.conv2d(F.conv2d(flat, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1)).view(b, c, h, w)
