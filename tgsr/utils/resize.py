"""MATLAB's bicubic `imresize`, batched."""

from __future__ import annotations

import math
from functools import lru_cache

import torch


@torch.no_grad()
def imresize(
    img: torch.Tensor, scale: float | None = None, *, size: tuple[int, int] | None = None, antialiasing: bool = True
) -> torch.Tensor:
    """Bicubic resize (a = -0.5) as MATLAB's `imresize`: antialiased when shrinking, symmetric borders, no rounding.

    Args:
        img: `(..., H, W)` float32 or float64, any device; the arithmetic is in its type.
        scale: factor of both sides; the output is `ceil(side * scale)`.
        size: output height and width instead, or beside `scale`, which then still fixes the sampling positions.
        antialiasing: widen the kernel when shrinking.

    Returns:
        `(..., h, w)` of the same type.
    """
    if scale is None and size is None:
        raise ValueError("give scale or size")
    h, w = img.shape[-2:]
    out_h, out_w = size or (_ceil(h * scale), _ceil(w * scale))
    rows = _matrix(h, out_h, scale or out_h / h, antialiasing).to(img)
    columns = _matrix(w, out_w, scale or out_w / w, antialiasing).to(img)
    return torch.matmul(torch.matmul(rows, img), columns.T)


def _ceil(length: float) -> int:
    """Ceiling that forgives the rounding of e.g. 300 * (1 / 3)."""
    return math.ceil(length - 1e-9 * max(1.0, length))


@lru_cache(maxsize=64)
def _matrix(length: int, out_length: int, scale: float, antialiasing: bool) -> torch.Tensor:
    """Interpolation weights `(out_length, length)` float64 of one axis."""
    shrink = scale if scale < 1 and antialiasing else 1.0
    centre = (torch.arange(out_length, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - 2 / shrink).long()
    taps = first[:, None] + torch.arange(math.ceil(4 / shrink) + 2)
    weights = _cubic((centre[:, None] - taps) * shrink)
    weights /= weights.sum(1, keepdim=True)
    mirrored = torch.remainder(taps, 2 * length)
    mirrored = torch.where(mirrored < length, mirrored, 2 * length - 1 - mirrored)
    return torch.zeros(out_length, length, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
