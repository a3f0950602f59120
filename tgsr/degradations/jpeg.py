"""Baseline JPEG as an image operator: quantisation of 8x8 DCT blocks, 4:2:0 chroma, real-valued quality.

The arithmetic is that of DiffJPEG with plain rounding (Real-ESRGAN's JPEG): no integer colour conversion, no rounding
of the decoded image, and quantisation tables transposed with respect to ITU T.81. Both transforms are one product with
a 64x64 matrix, and each sample has its own quality.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from tgsr.utils.device import upload

_LUMA_TABLE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA_TO_RGB = np.array([[0, 1.402], [-0.344136, -0.714136], [1.772, 0]], dtype=np.float32)
_CHROMA_CORNER = "17 18 24 47  18 21 26 66  24 26 56 99  47 66 99 99"


def quality_factor(quality: np.ndarray | float) -> np.ndarray:
    """Multiplier of the quantisation tables for real-valued qualities in (0, 100)."""
    quality = np.asarray(quality, dtype=np.float64)
    return np.where(quality < 50, 50 / quality, 2 - quality / 50)


def jpeg_torch(img: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Compress and decompress a batch.

    Args:
        img: `(B, 3, H, W)` float32 RGB in [0, 1].
        factor: `(B,)` float32 `quality_factor` of each sample, on the same device.

    Returns:
        The same shape, float32 RGB in [0, 1].
    """
    b, _, h, w = img.shape
    pad_h, pad_w = -h % 16, -w % 16
    if pad_h or pad_w:
        img = F.pad(img, (0, pad_w, 0, pad_h))
    height, width = h + pad_h, w + pad_w
    forward, backward, luma, chroma, to_ycc = _constants(img.device)
    ycc = torch.matmul(to_ycc, img.reshape(b, 3, height * width)).view(b, 3, height, width)
    factor = factor.view(b, 1, 1)
    y = _code(ycc[:, :1] - 128, luma * factor, forward, backward)
    c = _code(F.avg_pool2d(ycc[:, 1:], 2), chroma * factor, forward, backward)
    return _to_rgb(y[:, 0] + 128, c[:, 0], c[:, 1])[:, :, :h, :w]


def jpeg_planes(img: np.ndarray, quality: float) -> np.ndarray:
    """`jpeg_torch` for one `(3, H, W)` float32 image in [0, 1], row and column transforms one after the other."""
    h, w = img.shape[1:]
    height, width = h + -h % 16, w + -w % 16
    if (height, width) != (h, w):
        padded = np.zeros((3, height, width), dtype=np.float32)
        padded[:, :h, :w] = img
        img = padded
    _, _, luma, chroma, to_ycc = (t.numpy() for t in _constants(torch.device("cpu")))
    factor = np.float32(quality_factor(quality))
    y = (to_ycc[:1] @ img.reshape(3, -1)).reshape(1, height, width)
    y -= 128
    half = (width // 2, height // 2)
    small = np.stack([cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in img])
    c = (to_ycc[1:] @ small.reshape(3, -1)).reshape(2, height // 2, width // 2)
    y = _code_planes(y, luma.reshape(8, 8) * factor)[0]
    c = _code_planes(c, chroma.reshape(8, 8) * factor)
    y += 128
    shift = (_CHROMA_TO_RGB @ c.reshape(2, -1)).reshape(3, height // 2, width // 2)
    out = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_NEAREST) for plane in shift])
    out += y
    out *= np.float32(1 / 255)
    np.clip(out, 0, 1, out=out)
    return out[:, :h, :w] if (height, width) != (h, w) else out


def jpeg_codec(img: np.ndarray, quality: float) -> np.ndarray:
    """A real baseline codec (OpenCV's libjpeg) at the integer part of `quality`.

    Args:
        img: `(3, H, W)` float32 RGB, clipped to [0, 1].
        quality: real-valued, floored.

    Returns:
        `(3, H, W)` float32 RGB, multiples of 1/255.
    """
    levels = np.rint(np.clip(img, 0, 1) * np.float32(255)).astype(np.uint8)
    bgr = cv2.merge([levels[2], levels[1], levels[0]])
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG image")
    b, g, r = cv2.split(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.stack([r, g, b]).astype(np.float32) / np.float32(255)


def _code_planes(planes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """DCT, quantisation and back of `(P, H, W)` planes; `table` is `(8, 8)`."""
    p, h, w = planes.shape
    basis = _basis()
    steps = np.tile(table, (1, w // 8))
    rows = (planes.reshape(-1, 8) @ basis).reshape(p * h // 8, 8, w)
    coefficients = np.matmul(basis.T, rows)
    coefficients /= steps
    np.rint(coefficients, out=coefficients)
    coefficients *= steps
    rows = np.matmul(basis, coefficients)
    return (rows.reshape(-1, 8) @ basis.T).reshape(p, h, w)


def _code(planes: torch.Tensor, table: torch.Tensor, forward: torch.Tensor, backward: torch.Tensor) -> torch.Tensor:
    """DCT, quantisation and back of `(B, P, H, W)` planes; `table` is `(B, 1, 64)`."""
    b, p, h, w = planes.shape
    blocks = planes.reshape(b, p, h // 8, 8, w // 8, 8).transpose(3, 4).reshape(b, -1, 64)
    coefficients = torch.matmul(blocks, forward).div_(table).round_().mul_(table)
    blocks = torch.matmul(coefficients, backward)
    return blocks.view(b, p, h // 8, w // 8, 8, 8).transpose(3, 4).reshape(b, p, h, w)


def _to_rgb(y: torch.Tensor, cb: torch.Tensor, cr: torch.Tensor) -> torch.Tensor:
    """RGB `(B, 3, H, W)` in [0, 1] from luma `(B, H, W)` and centred chroma of half the size."""
    b, h, w = y.shape
    (_, red), (green_b, green_r), (blue, _) = _CHROMA_TO_RGB.tolist()
    shift = torch.stack([red * cr, green_b * cb + green_r * cr, blue * cb], 1)
    rgb = y.view(b, 1, h // 2, 2, w // 2, 2) + shift.view(b, 3, h // 2, 1, w // 2, 1)
    return rgb.view(b, 3, h, w).clamp_(0, 255).div_(255)


@lru_cache(maxsize=2)
def _basis(dtype: type = np.float32) -> np.ndarray:
    """`(8, 8)` orthonormal DCT: position by frequency."""
    n = np.arange(8)
    basis = np.cos((2 * n[:, None] + 1) * n[None, :] * np.pi / 16) * 0.5
    basis[:, 0] /= np.sqrt(2)
    return basis.astype(dtype)


@lru_cache(maxsize=16)
def _constants(device: torch.device) -> tuple[torch.Tensor, ...]:
    """Forward and backward 64x64 transforms, both tables `(64,)`, and the matrix from RGB in [0, 1] to YCbCr in 255."""
    basis = _basis(np.float64)
    forward = np.einsum("xu,yv->xyuv", basis, basis).reshape(64, 64)
    luma = np.array(_LUMA_TABLE.split(), dtype=np.float64).reshape(8, 8).T
    chroma = np.full((8, 8), 99.0)
    chroma[:4, :4] = np.array(_CHROMA_CORNER.split(), dtype=np.float64).reshape(4, 4).T
    to_ycc = 255 * np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    named = {"forward": forward, "backward": forward.T, "luma": luma.reshape(-1), "chroma": chroma.reshape(-1)}
    named["to_ycc"] = to_ycc
    return tuple(upload({name: a.astype(np.float32) for name, a in named.items()}, device).values())
