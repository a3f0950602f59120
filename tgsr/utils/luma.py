"""BT.601 luma, BasicSR's `color: y`: what networks of one channel are trained on and restore."""

from __future__ import annotations

import torch

BT601 = (65.481, 128.553, 24.966)
"""Weights of R, G, B in [0, 1] for the luma of ITU-R BT.601, 16 to 235; add 16."""
GREY_SHARE = 219 / 255
"""How far luma moves, in [0, 1], where red, green and blue move by 1 together."""


def luma_of(images: torch.Tensor) -> torch.Tensor:
    """Luma `(B, 1, H, W)`, 16/255 to 235/255, of RGB `(B, 3, H, W)` in [0, 1]; images of one channel as they are."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(BT601, dtype=images.dtype, device=images.device).div_(255).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True).add_(16 / 255)
