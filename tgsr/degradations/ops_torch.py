"""Operators on batches, `(B, C, H, W)` float32 on any device, one parameter per sample, without host synchronisation.

Parameters arrive as tensors on the image's device or as host arrays that decide shapes; nothing is read back.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from tgsr.degradations.borders import reflect
from tgsr.degradations.noise import gaussian_field, poisson_table, uniform_field

_GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


def blur(img: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Correlate the channels of each sample with its own kernel under reflection.

    Args:
        img: `(B, C, H, W)`.
        kernels: `(B, k, k)`, k odd.
    """
    b, c, h, w = img.shape
    half = kernels.shape[-1] // 2
    padded = reflect(img, half)
    padded = padded.transpose(0, 1).reshape(c, b, h + 2 * half, w + 2 * half)
    out = F.conv2d(padded, kernels[:, None], groups=b)
    return out.transpose(0, 1).contiguous()


def resize(img: torch.Tensor, size: tuple[int, int], mode: str, *, scale: float | None = None) -> torch.Tensor:
    """`F.interpolate` by `scale` where given (`size` must then be floor(length * scale)), else to `size`."""
    if scale is None or mode == "area":
        return F.interpolate(img, size=size, mode=mode)
    return F.interpolate(img, scale_factor=scale, mode=mode)


def add_gaussian(img: torch.Tensor, field: torch.Tensor, sigma_255: torch.Tensor) -> torch.Tensor:
    """Add `sigma_255 / 255` times `field` (one or three channels) and clip; `sigma_255` is `(B,)`."""
    return torch.addcmul(img, field, (sigma_255 / 255).view(-1, 1, 1, 1)).clamp_(0, 1)


def poisson_levels(img: torch.Tensor, *, gray: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What Poisson noise is made of.

    Returns:
        levels: `(B, 1 or 3, H, W)` float32 integers 0..255 of the image or its luminance.
        log_photons: `(B,)` int64, log2 of the photon number of white: distinct levels up to a power of 2.
    """
    if gray:
        r, g, b = _GRAY_WEIGHTS
        img = (r * img[:, :1]).add_(img[:, 1:2], alpha=g).add_(img[:, 2:], alpha=b)
    levels = (img * 255).round_().clamp_(0, 255)
    seen = torch.zeros(len(img), 256, dtype=torch.int64, device=img.device)
    seen.scatter_(1, levels.flatten(1).long(), 1)
    steps = torch.arange(8, device=img.device)
    return levels, (seen.sum(1, keepdim=True) > (1 << steps)).sum(1)


def add_poisson(
    img: torch.Tensor,
    scale: torch.Tensor,
    *,
    gray: bool,
    uniforms: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Add `scale` (`(B,)`) times Poisson noise of the 8-bit image and clip.

    Args:
        img: `(B, 3, H, W)`.
        scale: `(B,)`.
        gray: one field from the luminance for all channels.
        uniforms: `(B, 1 or 3, H, W)` int64 in [0, 2^32): counts by inversion, the same on every device.
        generator: without `uniforms`, counts come from `torch.poisson` with it.
    """
    levels, log_photons = poisson_levels(img, gray=gray)
    photons = torch.exp2(log_photons.float()).round_().view(-1, 1, 1, 1)
    if uniforms is None:
        counts = torch.poisson(levels * (photons / 255), generator=generator)
    else:
        counts = _invert(levels.long(), log_photons.view(-1, 1, 1, 1), uniforms)
    noise = (counts / photons).sub_(levels / 255)
    return torch.addcmul(img, noise, scale.view(-1, 1, 1, 1)).clamp_(0, 1)


def host_gaussian(rng: np.random.Generator, size: tuple[int, int], *, gray: bool) -> torch.Tensor:
    """A `(1, 1 or 3, H, W)` standard normal field on the host, the one that `ops_cpu` draws."""
    return torch.from_numpy(gaussian_field(rng, (1 if gray else 3, *size)))[None]


def host_uniforms(rng: np.random.Generator, size: tuple[int, int], *, gray: bool) -> torch.Tensor:
    """`(1, 1 or 3, H, W)` int64 uniforms below 2^32 on the host, the ones that `ops_cpu` draws."""
    field = uniform_field(rng, (1 if gray else 3, *size)).astype(np.int64)
    return torch.from_numpy(field)[None]


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """To `device`; on a GPU from pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def quantise(img: torch.Tensor) -> torch.Tensor:
    """Rounded to multiples of 1/255 in [0, 1]."""
    return (img * 255).round_().clamp_(0, 255).div_(255)


def _invert(levels: torch.Tensor, log_photons: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    thresholds, offset = _all_tables(levels.device)
    row = log_photons * 256 + levels
    found = torch.searchsorted(thresholds, ((row << 32) | uniforms).contiguous(), right=True)
    return (found + offset[row]).float()


@lru_cache(maxsize=4)
def _all_tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Distribution functions for all nine photon numbers, one after another, and what turns a place into a count."""
    thresholds, offsets, entries = [], [], 0
    for log_photons in range(9):
        _, values, first_count, first_entry = poisson_table(1 << log_photons)
        thresholds.append(values + (log_photons << 40))
        offsets.append(first_count - first_entry - entries)
        entries += len(values)
    return tuple(upload(torch.from_numpy(np.concatenate(x)), device) for x in (thresholds, offsets))
