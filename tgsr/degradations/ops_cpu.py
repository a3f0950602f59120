"""Operators on one image for loader workers: `(C, H, W)` float32 RGB planes, OpenCV and NumPy.

Planes, not interleaved pixels: OpenCV filters them at the same speed, matrix products and transforms need no copies,
and the ground truth comes so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import torch

from tgsr.degradations import banded
from tgsr.degradations.borders import fast_length, reflect
from tgsr.degradations.jpeg import jpeg_planes
from tgsr.degradations.noise import gaussian_field, num_poisson_levels, poisson_counts, uniform_field

_GRAY_WEIGHTS = np.array([[0.2989, 0.587, 0.114]], dtype=np.float32)
_NEGLIGIBLE = 2e-7
_FFT_FROM = 13


def blur(img: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate every channel with `kernel` (odd square, float32) under reflection (edge pixel not repeated).

    Borders of the kernel whose weights sum to less than 2e-7 are left out; a kernel that is the product of a column
    and a row is applied in two passes, any other large one by FFT. All agree to about 1e-6.
    """
    kernel = trim(kernel)
    size = len(kernel)
    if size == 1:
        return img * kernel[0, 0] if kernel[0, 0] != 1 else img
    centre = size // 2
    column, row = kernel[:, centre], kernel[centre] / kernel[centre, centre]
    if np.abs(np.outer(column, row) - kernel).max() * size * size < _NEGLIGIBLE:
        return _each(img, lambda x: cv2.sepFilter2D(x, -1, row, column, borderType=cv2.BORDER_REFLECT_101))
    if size < _FFT_FROM:
        return _each(img, lambda x: cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT_101))
    return _blur_fft(img, kernel)


def trim(kernel: np.ndarray) -> np.ndarray:
    """The central square outside of which the absolute weights sum to less than 2e-7."""
    half = len(kernel) // 2
    weight = np.abs(kernel.astype(np.float64))
    total = weight.sum()
    for r in range(half + 1):
        inner = slice(half - r, half + r + 1)
        if total - weight[inner, inner].sum() < _NEGLIGIBLE:
            return np.ascontiguousarray(kernel[inner, inner])
    return kernel


def resize(img: np.ndarray, size: tuple[int, int], mode: str, *, scale: float | None = None) -> np.ndarray:
    """Resize without antialiasing, equal to `torch.nn.functional.interpolate`.

    Args:
        img: `(C, H, W)` float32.
        size: output height and width.
        mode: `area`, `bilinear` or `bicubic`.
        scale: the factor that fixes the sampling positions; None: the ratio of the sizes.
    """
    if size == img.shape[1:] and scale in (None, 1.0):
        return img
    rows, columns = (banded.resize_blocks(n, m, mode, scale) for n, m in zip(img.shape[1:], size, strict=True))
    return banded.apply(img, rows, columns)


def add_gaussian(img: np.ndarray, rng: np.random.Generator, *, sigma_255: float, gray: bool) -> np.ndarray:
    """Add normal noise, one field for all channels where `gray`, and clip to [0, 1]."""
    noise = gaussian_field(rng, (1 if gray else 3, *img.shape[1:]))
    noise *= np.float32(sigma_255 / 255)
    return _add_clipped(img, noise)


def add_poisson(img: np.ndarray, rng: np.random.Generator, *, scale: float, gray: bool) -> np.ndarray:
    """Add `scale` times Poisson noise of the 8-bit image (its luminance where `gray`), and clip to [0, 1].

    The number of photons of white is the number of distinct 8-bit values of the image, up to a power of 2.
    """
    levels = to_levels((_GRAY_WEIGHTS @ img.reshape(3, -1)).reshape(1, *img.shape[1:]) if gray else img)
    num_levels = num_poisson_levels(levels)
    noise = poisson_counts(uniform_field(rng, levels.shape), levels, num_levels).astype(np.float32)
    noise *= np.float32(scale / num_levels)
    noise -= levels * np.float32(scale / 255)
    return _add_clipped(img, noise)


def to_levels(img: np.ndarray) -> np.ndarray:
    """Clipped and rounded (half to even) to uint8 levels."""
    scaled = img * np.float32(255)
    np.clip(scaled, 0, 255, out=scaled)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def jpeg(img: np.ndarray, quality: float) -> np.ndarray:
    """DiffJPEG with plain rounding; see `tgsr.degradations.jpeg`. `img` is clipped to [0, 1] first."""
    return jpeg_planes(np.clip(img, 0, 1), quality)


def quantise(img: np.ndarray) -> np.ndarray:
    """Rounded to multiples of 1/255 in [0, 1]."""
    out = np.rint(img * np.float32(255))
    np.clip(out, 0, 255, out=out)
    out /= np.float32(255)
    return out


def _add_clipped(img: np.ndarray, noise: np.ndarray) -> np.ndarray:
    out = np.add(img, noise, out=noise if noise.shape == img.shape else None)
    return np.clip(out, 0, 1, out=out)


def _each(img: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.stack([function(plane) for plane in img])


def _blur_fft(img: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation by FFT."""
    half, (h, w) = len(kernel) // 2, img.shape[1:]
    padded = reflect(torch.from_numpy(img)[None], half)[0]
    shape = tuple(fast_length(n) for n in padded.shape[1:])
    transfer = _waves(shape[0], shape[0], len(kernel)) @ torch.from_numpy(kernel).to(torch.complex64)
    transfer = transfer @ _waves(shape[1], shape[1] // 2 + 1, len(kernel)).T
    spectrum = torch.fft.rfft2(padded, s=shape)
    spectrum *= transfer
    return torch.fft.irfft2(spectrum, s=shape)[:, :h, :w].contiguous().numpy()


@lru_cache(maxsize=256)
def _waves(length: int, num: int, size: int) -> torch.Tensor:
    """`exp(2 pi i u x / length)` for u < num, x < size: the conjugate Fourier matrix of a short kernel."""
    phase = np.arange(num)[:, None] * np.arange(size)[None, :] % length
    return torch.from_numpy(np.exp(2j * np.pi / length * phase).astype(np.complex64))
