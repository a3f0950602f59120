"""Unsharp masking of the ground truth as Real-ESRGAN does it, with separable filters."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tgsr.degradations import banded
from tgsr.utils.device import full_precision, upload
from tgsr.utils.memory import keep_freed_memory
from tgsr.utils.threads import one_blas_thread


def sharpen(img: torch.Tensor, *, weight: float = 0.5, radius: int = 51, threshold_255: float = 10.0) -> torch.Tensor:
    """Add `weight` times the detail where it is strong, softly blended in.

    The detail is the image less its Gaussian blur; the mask of detail above the threshold is blurred by the same
    Gaussian. The filters are banded matrix products: in dense blocks on a CPU, as whole matrices elsewhere.

    Args:
        img: `(B, 3, H, W)` or `(3, H, W)` float32 RGB in [0, 1].
        weight: strength.
        radius: odd width of the Gaussian in pixels (its sigma is OpenCV's for that width, 8.0 for 51).
        threshold_255: detail below it is left alone.

    Returns:
        The same shape, float32 in [0, 1].
    """
    if img.ndim == 3:
        return sharpen(img[None], weight=weight, radius=radius, threshold_255=threshold_255)[0]
    if img.device.type == "cpu":
        planes = img.detach().contiguous().numpy()
        out = [_sharpen_planes(x, weight, radius, threshold_255) for x in planes]
        return torch.from_numpy(out[0])[None] if len(out) == 1 else torch.from_numpy(np.stack(out))
    img = img.contiguous()
    with full_precision(img.device):
        detail = img - _blur(img, radius)
        soft = _blur((detail.abs() * 255 > threshold_255).to(img.dtype), radius)
    return torch.lerp(img, (img + weight * detail).clamp_(0, 1), soft)


def sharpen_hwc(img: np.ndarray, *, weight: float = 0.5, radius: int = 51, threshold_255: float = 10.0) -> np.ndarray:
    """`sharpen` for one `(H, W, 3)` float32 image."""
    planes = np.ascontiguousarray(img.transpose(2, 0, 1))
    return np.ascontiguousarray(_sharpen_planes(planes, weight, radius, threshold_255).transpose(1, 2, 0))


@one_blas_thread()
def _sharpen_planes(img: np.ndarray, weight: float, radius: int, threshold_255: float) -> np.ndarray:
    keep_freed_memory()
    rows, columns = (banded.gaussian_blocks(n, radius) for n in img.shape[1:])
    detail = banded.apply(img, rows, columns)
    np.subtract(img, detail, out=detail)
    mask = np.abs(detail)
    mask *= np.float32(255)
    mask = np.greater(mask, np.float32(threshold_255), out=mask, casting="unsafe")
    soft = banded.apply(mask, rows, columns)
    detail *= np.float32(weight)
    detail += img
    np.clip(detail, 0, 1, out=detail)
    detail -= img
    detail *= soft
    detail += img
    return detail


@lru_cache(maxsize=8)
def _blur_matrix(length: int, radius: int, device: torch.device) -> torch.Tensor:
    return upload({"matrix": banded.dense(banded.gaussian_blocks(length, radius))}, device)["matrix"]


def _blur(img: torch.Tensor, radius: int) -> torch.Tensor:
    """As products with whole matrices."""
    rows, columns = (_blur_matrix(n, radius, img.device) for n in img.shape[2:])
    return torch.matmul(rows, torch.matmul(img, columns.T))
