"""JPEG compression: the real codec on a CPU, the same arithmetic batched on a device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams

# Tables K.1 and K.2 of ITU-T T.81, which libjpeg scales by the quality.
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
)
_CHROMA = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 " + "99 " * 32
)
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


@NAMED.register("jpeg")
class Jpeg(NamedDegradation):
    """4:2:0, libjpeg's tables.

    Args:
        quality: range of the quality, whole numbers.
    """

    name = "jpeg"

    def __init__(self, *, quality: tuple[int, int] = (10, 40)) -> None:
        self.parameters = (value_range("jpeg_quality", quality, within=(1, 100), step=1),)

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        bgr = np.ascontiguousarray((image[..., ::-1] * 255).round().clip(0, 255).astype(np.uint8))
        _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(row["jpeg_quality"])])
        return cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        tables = np.stack([_tables(int(q)) for q in params["jpeg_quality"]])
        return jpeg_batch(images, torch.from_numpy(tables).to(images.device, non_blocking=True))


@lru_cache(maxsize=128)
def _tables(quality: int) -> np.ndarray:
    """(2, 8, 8) quantisation tables of luma and chroma."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    raw = np.array([_LUMA.split(), _CHROMA.split()], dtype=np.int64).reshape(2, 8, 8)
    return np.clip((raw * scale + 50) // 100, 1, 255).astype(np.float32)


def jpeg_batch(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """What libjpeg does to `(B, 3, H, W)` in [0, 1] with tables `(B, 2, 8, 8)`: 4:2:0 and triangular up-sampling."""
    height, width = images.shape[-2:]
    rgb = F.pad((images * 255).round(), (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = _mix(rgb, _TO_YCBCR).round()
    luma = _code_blocks(ycc[:, :1] - 128, tables[:, :1])
    chroma = _code_blocks(_halve(ycc[:, 1:]), tables[:, 1:])
    chroma = _double(chroma[..., : (height + 1) // 2, : (width + 1) // 2])
    both = torch.cat([luma[..., :height, :width] + 128, chroma[..., :height, :width]], dim=1)
    return _mix(both, _TO_RGB).round().clamp(0, 255) / 255


def _mix(images: torch.Tensor, matrix: tuple[tuple[float, ...], ...]) -> torch.Tensor:
    weight = torch.tensor(matrix, dtype=images.dtype).to(images.device, non_blocking=True)
    return torch.einsum("oc,bchw->bohw", weight, images)


def _halve(chroma: torch.Tensor) -> torch.Tensor:
    """Means of 2 x 2 pixels, rounded as libjpeg does: the halves up and down in turn along a row."""
    sums = F.avg_pool2d(chroma, 2) * 4
    bias = 1 + torch.arange(sums.shape[-1], device=sums.device) % 2
    return torch.floor((sums + 4 * 128 + bias) / 4) - 128


def _double(chroma: torch.Tensor) -> torch.Tensor:
    """Triangular ("fancy") up-sampling: 3/4 of the nearer and 1/4 of the further sample along each axis."""
    padded = F.pad(chroma + 128, (1, 1, 1, 1), mode="replicate")
    middle = padded[..., 1:-1, :]
    rows = torch.stack([3 * middle + padded[..., :-2, :], 3 * middle + padded[..., 2:, :]], dim=-2).flatten(-3, -2)
    centre = rows[..., 1:-1]
    left = torch.floor((3 * centre + rows[..., :-2] + 8) / 16)
    right = torch.floor((3 * centre + rows[..., 2:] + 7) / 16)
    return torch.stack([left, right], dim=-1).flatten(-2) - 128


@lru_cache(maxsize=1)
def _dct() -> np.ndarray:
    k, n = np.mgrid[0:8, 0:8]
    matrix = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _code_blocks(plane: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Quantise the 8 x 8 DCT of `(B, C, H, W)`, centred at 0, with `(B, 1, 8, 8)`; the decoded plane, rounded."""
    batch, channels, height, width = plane.shape
    dct = torch.from_numpy(_dct()).to(plane.device, non_blocking=True)
    blocks = plane.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = tables[:, :, None, None]
    levels = ((dct @ blocks @ dct.T) / steps).round()
    decoded = (dct.T @ (levels * steps) @ dct).round().clamp(-128, 127)
    return decoded.transpose(3, 4).reshape(batch, channels, height, width)
