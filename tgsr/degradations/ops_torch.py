"""Operators on batches, `(B, C, H, W)` float32 on any device, one parameter per sample, without host synchronisation.

Samples of different sizes share a canvas: each lies in the upper left corner of an image as large as the largest, and
what is outside is never read by an operator that could carry it inside. Parameters arrive as tensors on the image's
device or as host arrays that decide shapes; nothing is read back.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tgsr.degradations.borders import fast_length, mirrored
from tgsr.degradations.noise import poisson_table
from tgsr.utils.device import upload

_GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


def blur_window(heights: np.ndarray, widths: np.ndarray, half: int) -> tuple[np.ndarray, np.ndarray]:
    """Where `blur` reads: source rows `(B, H')` and columns `(B, W')` of each sample, mirrored at its own borders.

    H' and W' are the lengths of the Fourier transform, at least `2 half` more than the largest sample.
    """
    rows, columns = (mirrored(n, half, fast_length(int(n.max()) + 2 * half)) for n in (heights, widths))
    return rows, columns


def blur(img: torch.Tensor, kernels: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Correlate the channels of each sample with its own kernel under reflection, by FFT (agrees to about 1e-6).

    Args:
        img: `(B, C, H, W)` canvas.
        kernels: `(B, k, k)`, k odd.
        rows, columns: `(B, H')`, `(B, W')` from `blur_window` with half of k.
    """
    b, c, h, w = img.shape
    size = (rows.shape[1], columns.shape[1])
    sample = torch.arange(b, device=img.device).view(b, 1, 1, 1)
    channel = torch.arange(c, device=img.device).view(1, c, 1, 1)
    padded = img[sample, channel, rows.view(b, 1, -1, 1), columns.view(b, 1, 1, -1)]
    spectrum = torch.fft.rfft2(padded)
    spectrum *= torch.fft.rfft2(kernels, s=size).conj()[:, None]
    return torch.fft.irfft2(spectrum, s=size)[..., :h, :w]


def resize(img: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """`rows @ img @ columns^T` for each sample and channel; the matrices are `(B, H', H)` and `(B, W', W)`."""
    b, c, h, w = img.shape
    wide = torch.bmm(img.reshape(b, c * h, w), columns.transpose(1, 2)).view(b, c, h, -1)
    return torch.matmul(rows[:, None], wide)


def distinct_taps(index: torch.Tensor, weights: torch.Tensor, dropped: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The taps of `resize_taps` as they can be written in any order: sums where several meet in one position.

    Only the first four taps can meet (those of `bicubic`, at the ends of an axis). Adding up colliding writes on a GPU
    would change the last bits from run to run.

    Args:
        index, weights: `(R, num_out, taps)` from `resize_taps`.
        dropped: position for taps without weight.

    Returns:
        index: int64, taps that meet have equal weights.
        weights: float32.
    """
    first, head = index[..., :4], weights[..., :4]
    merged = ((first.unsqueeze(-1) == first.unsqueeze(-2)) * head.unsqueeze(-2)).sum(-1)
    weights = torch.cat([merged, weights[..., 4:]], -1)
    return torch.where(weights != 0, index, dropped), weights.float()


def matrices(index: torch.Tensor, weights: torch.Tensor, length: int) -> torch.Tensor:
    """`(R, num_out, length)` float32 matrices from `distinct_taps`, which dropped its taps at `length`."""
    width = -(-(length + 1) // 4) * 4  # rows that begin at multiples of 16 bytes
    out = torch.zeros(*index.shape[:2], width, device=index.device)
    return out.scatter_(2, index, weights)[..., :length]


def inside(heights: torch.Tensor, widths: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(B, 1, H, W)` bool: True where the canvas of `size` holds the sample; heights and widths are `(B,)` int64."""
    down, across = (torch.arange(n, device=heights.device) for n in size)
    return (down.view(1, 1, -1, 1) < heights.view(-1, 1, 1, 1)) & (across < widths.view(-1, 1, 1, 1))


def poisson_levels(img: torch.Tensor, is_gray: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What Poisson noise is made of.

    Outside of its sample a canvas must repeat pixels of the sample: no other values may be counted.

    Args:
        img: `(B, 3, H, W)`.
        is_gray: `(B, 1, 1, 1)` bool: all channels hold the level of the luminance.

    Returns:
        levels: `(B, 3, H, W)` float32 integers 0..255.
        log_photons: `(B, 1, 1, 1)` int64, log2 of the photon number of white: distinct levels up to a power of 2.
    """
    r, g, b = _GRAY_WEIGHTS
    gray = (r * img[:, :1]).add_(img[:, 1:2], alpha=g).add_(img[:, 2:], alpha=b)
    levels = torch.where(is_gray, gray, img).mul_(255).round_().clamp_(0, 255)
    seen = torch.zeros(len(img), 256, dtype=torch.int64, device=img.device)
    seen.scatter_(1, levels.flatten(1).long(), 1)
    steps = torch.arange(8, device=img.device)
    return levels, (seen.sum(1, keepdim=True) > (1 << steps)).sum(1).view(-1, 1, 1, 1)


def poisson_noise(
    img: torch.Tensor,
    scale: torch.Tensor,
    is_gray: torch.Tensor,
    *,
    uniforms: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """`scale` times the Poisson noise of the 8-bit image.

    Args:
        img: `(B, 3, H, W)`; see `poisson_levels` for canvases.
        scale: `(B,)`.
        is_gray: `(B,)` bool: one field from the luminance for all channels.
        uniforms: `(B, 3, H, W)` int64 in [0, 2^32): counts by inversion, the same on every device.
        generator: without `uniforms`, counts come from `torch.poisson` with it.
    """
    is_gray = is_gray.view(-1, 1, 1, 1)
    levels, log_photons = poisson_levels(img, is_gray)
    photons = torch.exp2(log_photons.float()).round_()
    if uniforms is None:
        counts = torch.poisson(levels * (photons / 255), generator=generator)
    else:
        counts = invert(levels.long(), log_photons, uniforms)
    noise = (counts / photons).sub_(levels / 255).mul_(scale.view(-1, 1, 1, 1))
    return one_field(noise, is_gray)


def one_field(noise: torch.Tensor, is_gray: torch.Tensor) -> torch.Tensor:
    """The first channel for all where `is_gray` (`(B, 1, 1, 1)` bool)."""
    return torch.where(is_gray, noise[:, :1], noise)


def invert(levels: torch.Tensor, log_photons: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Exact Poisson counts (float32) of mean `levels / 255 * 2^log_photons` from 32-bit uniforms (int64)."""
    thresholds, offset = _all_tables(levels.device)
    row = log_photons * 256 + levels
    found = torch.searchsorted(thresholds, ((row << 32) | uniforms).contiguous(), right=True)
    return (found + offset[row]).float()


def quantise(img: torch.Tensor) -> torch.Tensor:
    """Rounded to multiples of 1/255 in [0, 1]."""
    return (img * 255).round_().clamp_(0, 255).div_(255)


def clear_outside(img: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Clipped to [0, 1] and black where `mask` is False: what JPEG completes its last blocks with."""
    img = img.clamp(0, 1)
    return img if mask is None else img.mul_(mask)


@lru_cache(maxsize=4)
def _all_tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Distribution functions for all nine photon numbers, one after another, and what turns a place into a count."""
    thresholds, offsets, entries = [], [], 0
    for log_photons in range(9):
        _, values, first_count, first_entry = poisson_table(1 << log_photons)
        thresholds.append(values + (log_photons << 40))
        offsets.append(first_count - first_entry - entries)
        entries += len(values)
    both = upload({"thresholds": np.concatenate(thresholds), "offsets": np.concatenate(offsets)}, device)
    return both["thresholds"], both["offsets"]
