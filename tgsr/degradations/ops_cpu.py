"""Operators on one image for loader workers: `(H, W, 3)` float32 RGB arrays, OpenCV and NumPy."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from tgsr.degradations.jpeg import jpeg_torch, quality_factor
from tgsr.degradations.noise import gaussian_field, num_poisson_levels, poisson_counts, uniform_field

GRAY_WEIGHTS = np.array([[0.2989, 0.587, 0.114]], dtype=np.float32)
_NEGLIGIBLE = 2e-7
_DFT_FROM = 13


def blur(img: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate every channel with `kernel` (odd square, float32) under reflection (edge pixel not repeated).

    Borders of the kernel whose weights sum to less than 2e-7 are left out, and a kernel that is a product of a column
    and a row is applied as two passes.
    """
    kernel = trim(kernel)
    size = len(kernel)
    if size == 1:
        return img * kernel[0, 0] if kernel[0, 0] != 1 else img
    centre = size // 2
    column, row = kernel[:, centre], kernel[centre] / kernel[centre, centre]
    if np.abs(np.outer(column, row) - kernel).max() * size * size < _NEGLIGIBLE:
        return cv2.sepFilter2D(img, -1, row, column, borderType=cv2.BORDER_REFLECT_101)
    if size < _DFT_FROM:
        return cv2.filter2D(img, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return _blur_fft(img, kernel)


def trim(kernel: np.ndarray) -> np.ndarray:
    """The central square outside of which the absolute weights sum to less than 2e-7."""
    size, half = len(kernel), len(kernel) // 2
    weight = np.abs(kernel)
    total = weight.sum(dtype=np.float64)
    for r in range(half + 1):
        inner = weight[half - r : half + r + 1, half - r : half + r + 1].sum(dtype=np.float64)
        if total - inner < _NEGLIGIBLE:
            return np.ascontiguousarray(kernel[half - r : size - half + r, half - r : size - half + r])
    return kernel


def resize(img: np.ndarray, size: tuple[int, int], mode: str, *, scale: float | None = None) -> np.ndarray:
    """Resize without antialiasing, equal to `torch.nn.functional.interpolate`.

    Args:
        img: `(H, W, 3)` float32.
        size: output height and width.
        mode: `area`, `bilinear` or `bicubic`.
        scale: the factor that fixes the sampling positions; None: the ratio of the sizes.
    """
    if size == img.shape[:2] and scale in (None, 1.0):
        return img
    chw = torch.from_numpy(img).permute(2, 0, 1)[None]
    return interpolate(chw, size, mode, scale)[0].permute(1, 2, 0).contiguous().numpy()


def interpolate(img: torch.Tensor, size: tuple[int, int], mode: str, scale: float | None) -> torch.Tensor:
    """`F.interpolate` by `scale` where given (its own output size is floor(length * scale)), else to `size`."""
    if scale is None or mode == "area":
        return F.interpolate(img, size=size, mode=mode)
    return F.interpolate(img, scale_factor=scale, mode=mode)


def add_gaussian(img: np.ndarray, rng: np.random.Generator, *, sigma_255: float, gray: bool) -> np.ndarray:
    """Add normal noise, one field for all channels where `gray`, and clip to [0, 1]."""
    noise = gaussian_field(rng, (*img.shape[:2], 1 if gray else 3))
    noise *= np.float32(sigma_255 / 255)
    noise = cv2.merge([noise] * 3) if gray else noise
    noise += img
    return np.clip(noise, 0, 1, out=noise)


def add_poisson(img: np.ndarray, rng: np.random.Generator, *, scale: float, gray: bool) -> np.ndarray:
    """Add `scale` times Poisson noise of the 8-bit image (its luminance where `gray`), and clip to [0, 1].

    The number of photons of white is the number of distinct 8-bit values of the image, up to a power of 2.
    """
    source = cv2.transform(img, GRAY_WEIGHTS)[..., None] if gray else img
    levels = to_levels(source)
    num_levels = num_poisson_levels(levels)
    counts = poisson_counts(uniform_field(rng, levels.shape), levels, num_levels)
    noise = counts.astype(np.float32)
    noise *= np.float32(scale / num_levels)
    noise -= levels * np.float32(scale / 255)
    noise = cv2.merge([noise] * 3) if gray else noise
    noise += img
    return np.clip(noise, 0, 1, out=noise)


def to_levels(img: np.ndarray) -> np.ndarray:
    """Clipped and rounded (half to even) to uint8 levels."""
    return np.rint(np.clip(img * np.float32(255), 0, 255)).astype(np.uint8)


def jpeg(img: np.ndarray, quality: float) -> np.ndarray:
    """DiffJPEG with plain rounding; see `tgsr.degradations.jpeg`. `img` is clipped to [0, 1] first."""
    chw = torch.from_numpy(np.clip(img, 0, 1)).permute(2, 0, 1)[None]
    factor = torch.from_numpy(quality_factor([quality]).astype(np.float32))
    return jpeg_torch(chw, factor)[0].permute(1, 2, 0).contiguous().numpy()


def quantise(img: np.ndarray) -> np.ndarray:
    """Rounded to multiples of 1/255 in [0, 1]."""
    return np.clip(np.rint(img * np.float32(255)), 0, 255) / np.float32(255)


def _blur_fft(img: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation by FFT; 1e-6 of the direct form."""
    half = len(kernel) // 2
    h, w = img.shape[:2]
    padded = cv2.copyMakeBorder(img, half, half, half, half, cv2.BORDER_REFLECT_101)
    shape = tuple(_fast_length(n) for n in padded.shape[:2])
    planes = torch.from_numpy(padded).permute(2, 0, 1).contiguous()
    spectrum = torch.fft.rfft2(planes, s=shape)
    spectrum *= torch.fft.rfft2(torch.from_numpy(kernel), s=shape).conj()
    out = torch.fft.irfft2(spectrum, s=shape)[:, :h, :w]
    return out.permute(1, 2, 0).contiguous().numpy()


def _fast_length(n: int) -> int:
    """The next length with small prime factors, even."""
    return 2 * cv2.getOptimalDFTSize((n + 1) // 2)
