"""Correlation with one kernel per sample, and resizing as a matrix per axis; shared by several named degradations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.degradations import ops_torch
from tgsr.degradations.params import DegradationParams
from tgsr.utils.device import upload

KernelOf = Callable[[Mapping[str, Any]], np.ndarray]


def filter_image(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate `(H, W, 3)` with an odd `(k, k)` kernel, reflect-101 border."""
    return cv2.filter2D(image, cv2.CV_32F, kernel.astype(np.float32), borderType=cv2.BORDER_REFLECT_101)


def filter_batch(images: torch.Tensor, params: DegradationParams, kernel_of: KernelOf) -> torch.Tensor:
    """Correlate sample i with `kernel_of(row i)`; kernels of different odd sizes share one pass."""
    kernels = [kernel_of(params.row(i)) for i in range(params.batch_size)]
    size = max(k.shape[0] for k in kernels)
    stack = np.zeros((len(kernels), size, size), dtype=np.float32)
    for place, kernel in zip(stack, kernels, strict=True):
        margin = (size - kernel.shape[0]) // 2
        place[margin : size - margin, margin : size - margin] = kernel
    rows, columns = ops_torch.blur_window(*(np.full(len(kernels), n) for n in images.shape[2:]), size // 2)
    sent = upload({"kernels": stack, "rows": rows, "columns": columns}, images.device)
    return ops_torch.blur(images, **sent)


@lru_cache(maxsize=256)
def resize_matrix(source: int, target: int, mode: str) -> np.ndarray:
    """`(target, source)` float64 matrix of OpenCV's resize along one axis.

    Args:
        source, target: lengths.
        mode: `bilinear`, `bicubic` (a = -0.75; neither is antialiased) or `area` (exact coverage when shrinking,
            OpenCV's modified linear interpolation when enlarging).
    """
    ratio = source / target
    places = np.arange(target)
    matrix = np.zeros((target, source))
    if mode == "area" and target < source:
        starts, stops = places * ratio, (places + 1) * ratio
        cells = np.arange(source)
        cover = np.minimum(stops[:, None], cells + 1) - np.maximum(starts[:, None], cells)
        return np.clip(cover, 0, None) / ratio
    if mode == "area":
        first = np.floor(places * ratio)
        offset = (places + 1) - (first + 1) / ratio
        offset = np.where(offset <= 0, 0.0, offset - np.floor(offset))
        taps = {0: 1 - offset, 1: offset}
    else:
        centre = (places + 0.5) * ratio - 0.5
        first = np.floor(centre)
        t = centre - first
        taps = {0: 1 - t, 1: t} if mode == "bilinear" else {k: _cubic(t - k) for k in (-1, 0, 1, 2)}
    for k, weight in taps.items():
        np.add.at(matrix, (places, np.clip(first.astype(int) + k, 0, source - 1)), weight)
    return matrix


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
