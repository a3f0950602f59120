"""Reflection at image borders for images of any size, also smaller than the border."""

from __future__ import annotations

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
    rows, columns = (_mirrored(n, half).to(img.device) for n in (height, width))
    return img[..., rows[:, None], columns]


def _mirrored(length: int, half: int) -> torch.Tensor:
    """Source index of every position from -half to length + half - 1."""
    period = max(1, 2 * (length - 1))
    place = torch.arange(-half, length + half) % period
    return torch.where(place < length, place, period - place)
