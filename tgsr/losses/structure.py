"""Losses on local structure and on spectra, per sample."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from tgsr.losses.base import LOSSES, PairLoss
from tgsr.losses.pixel import per_sample_mean


def gaussian_window(size: int, sigma: float, *, device: torch.device | None = None) -> torch.Tensor:
    """Normalised Gaussian `(size,)`."""
    positions = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    window = torch.exp(-0.5 * (positions / sigma).square())
    return window / window.sum()


def ssim_map(
    restored: torch.Tensor, target: torch.Tensor, *, padding: Literal["valid", "reflect"] = "valid"
) -> torch.Tensor:
    """SSIM of each pixel and channel: 11x11 Gaussian window of sigma 1.5 px, for images in [0, 1].

    Args:
        restored: `(B, C, H, W)`.
        target: the same size.
        padding: `valid`: only pixels whose window lies inside; `reflect`: all pixels, mirrored at the border.

    Returns:
        `(B, C, H, W)`, or `(B, C, H - 10, W - 10)` for `valid`.
    """
    with torch.autocast(restored.device.type, enabled=False):
        # taking one half off leaves the variances and keeps their fp32 cancellation small; the means get it back
        x, y = restored.float() - 0.5, target.float() - 0.5
        window = gaussian_window(11, 1.5, device=x.device)
        planes = torch.cat([x, y, x * y, x * x + y * y])
        if padding == "reflect":
            planes = F.pad(planes, (5, 5, 5, 5), mode="reflect")
        channels = planes.shape[1]
        planes = F.conv2d(planes, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        planes = F.conv2d(planes, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        mean_x, mean_y, mean_xy, mean_squares = planes.chunk(4)
        covariance, variances = mean_xy - mean_x * mean_y, mean_squares - mean_x.square() - mean_y.square()
        mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
        return luminance * (2 * covariance + c2) / (variances + c2)


@LOSSES.register()
class SSIMLoss(PairLoss):
    """1 - SSIM, mean over channels.

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
    """

    def __init__(self, *, loss_weight: float = 1.0, target: Literal["gt", "gt_usm"] = "gt") -> None:
        super().__init__(loss_weight=loss_weight, target=target)

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 1 - per_sample_mean(ssim_map(restored, target))


@LOSSES.register()
class FFTLoss(PairLoss):
    """Mean absolute difference of the real and imaginary parts of the orthonormal 2-D spectrum.

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
    """

    def __init__(self, *, loss_weight: float = 1.0, target: Literal["gt", "gt_usm"] = "gt") -> None:
        super().__init__(loss_weight=loss_weight, target=target)

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        with torch.autocast(restored.device.type, enabled=False):
            spectrum = torch.fft.fft2(restored.float() - target.float(), norm="ortho")
            return per_sample_mean(torch.view_as_real(spectrum).abs())
