"""Reflection at image borders for images of any size, also smaller than the border."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional as F


def reflect(img: torch.Tensor, half: int) -> torch.Tensor:
    """`(..., C, H, W)` with a border of `half` on all sides, mirrored without repeating the edge.

    torch's own reflection wants images larger than the border; a crop that a first-stage resize has shrunk to a few
    pixels is mirrored several times here, as OpenCV does.
    """
    height, width = img.shape[-2:]
    if half < min(height, width):
        return F.pad(img, [half] * 4, mode="reflect")
    rows, columns = (
        torch.from_numpy(mirrored(np.array([n]), half, n + 2 * half)[0]).to(img.device) for n in (height, width)
    )
    return img[..., rows[:, None], columns]


def mirrored(lengths: np.ndarray, half: int, num: int) -> np.ndarray:
    """`(B, num)` int64: source index of the positions -half, -half + 1, ... on axes of the given lengths."""
    period = np.maximum(1, 2 * (lengths - 1))[:, None]
    place = (np.arange(num) - half) % period
    return np.where(place < lengths[:, None], place, period - place)


def fast_length(length: int) -> int:
    """The next even length that a Fourier transform likes."""
    return 2 * cv2.getOptimalDFTSize((length + 1) // 2)
