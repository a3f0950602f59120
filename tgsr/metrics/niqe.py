"""NIQE (Mittal, Soundararajan, Bovik 2012), no-reference, with the values of BasicSR.

In flat regions the metric is decided by rounding noise: computed in fp64 it differs by up to 0.3 on clean graphics. So
images are fp32 at the places where BasicSR's are, and sums of fp32 values run in NumPy's order; only the order of
work, the filters and the search of the shape table are faster.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from scipy.special import gamma

from tgsr.config.spec import NonNegativeInt
from tgsr.metrics.base import METRICS, Metric
from tgsr.metrics.images import BT601, check_images, crop, describe, to_8bit
from tgsr.utils.errors import DataError

BLOCK = 96
WINDOW, WINDOW_SIGMA_PX = 7, 7 / 6
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbours whose products are looked at: horizontal, vertical and both diagonals."""
HALF_TAPS = tuple(tap / 512 for tap in (-6, -18, 58, 222, 222, 58, -18, -6))
"""Antialiased bicubic interpolation (a = -0.5) at scale 1/2: the same weights for every output pixel."""


@METRICS.register()
class NIQE(Metric):
    """Natural image quality evaluator: distance of an image's statistics from those of natural images.

    Args:
        crop_border: pixels left out on each side.
        color: what it is computed on; `y` (BT.601 luma, rounded) is the only form that is defined.
    """

    higher_is_better = False
    needs_gt = False

    def __init__(self, *, crop_border: NonNegativeInt = 0, color: Literal["y"] = "y") -> None:
        self.crop_border = crop_border
        self.protocol = describe(color, crop_border)

    def too_small(self, height: int, width: int) -> str:
        rows, columns = ((side - 2 * self.crop_border) // BLOCK for side in (height, width))
        enough = rows > 0 and columns > 0 and rows * columns >= 2
        return "" if enough else f"NIQE needs two blocks of {BLOCK}x{BLOCK} pixels after the crop, not {width}x{height}"

    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None = None) -> float:
        check_images(restored, None)
        if problem := self.too_small(*restored.shape[-2:]):
            raise DataError(problem)
        image = rounded_luma(to_8bit(crop(restored, self.crop_border)).cpu())
        rows, columns = image.shape[0] // BLOCK, image.shape[1] // BLOCK
        return niqe(image[: rows * BLOCK, : columns * BLOCK])


def rounded_luma(image_8bit: torch.Tensor) -> np.ndarray:
    """BT.601 luma `(H, W)` in whole numbers as fp32; ties and near ties fall as in BasicSR."""
    if len(image_8bit) == 1:
        return image_8bit[0].numpy()
    channels = image_8bit.div(255).double()
    value = sum(channel * weight for channel, weight in zip(channels, BT601, strict=True)) + 16
    return (value / 255).float().mul_(255).round_().numpy()


def niqe(image: np.ndarray) -> float:
    """NIQE of a luma image.

    Args:
        image: `(96 n, 96 m)` fp32, 0 to 255.

    Returns:
        The distance, lower is better; NaN for an image without any structure.
    """
    features = [block_features(normalise(image), BLOCK)]
    features.append(block_features(normalise(half_size(image)), BLOCK // 2))
    features = np.concatenate(features, axis=1)
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        return math.nan
    pristine_mean, pristine_covariance = _pristine()
    offset = pristine_mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((pristine_covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(offset @ inverse @ offset))


def normalise(image: np.ndarray) -> np.ndarray:
    """Mean subtracted contrast normalised luma, fp32 (equation 1)."""
    window = cv2.getGaussianKernel(WINDOW, WINDOW_SIGMA_PX)

    def blur(plane: np.ndarray) -> np.ndarray:
        blurred = cv2.sepFilter2D(plane, cv2.CV_64F, window, window, borderType=cv2.BORDER_REPLICATE)
        return blurred.astype(np.float32)

    mean = blur(image)
    deviation = blur(np.square(image))
    deviation -= np.square(mean)
    deviation = np.sqrt(np.abs(deviation, out=deviation), out=deviation)
    deviation += 1
    return np.divide(np.subtract(image, mean, out=mean), deviation, out=mean)


def block_features(normalised: np.ndarray, block: int) -> np.ndarray:
    """The 18 features of each block `(N, 18)`: shape and scale of the values and of products of neighbours."""
    rows, columns = normalised.shape[0] // block, normalised.shape[1] // block
    moments = np.empty((5, rows * columns, 4), np.float32)
    for row in range(rows):  # a strip at a time stays in the cache
        strip = normalised[row * block : (row + 1) * block].reshape(block, columns, block).transpose(1, 0, 2)
        strip = np.ascontiguousarray(strip)
        place = slice(row * columns, (row + 1) * columns)
        moments[0, place] = block_moments(strip)
        for index, (down, right) in enumerate(SHIFTS, 1):
            moments[index, place] = block_moments(strip * _rolled(strip, down, right))
    features = []
    for index, values in enumerate(moments):
        shape, left, right = fit_aggd(values)
        if index == 0:
            features += [shape, (left + right) / 2]
        else:
            mean = (right - left) * (gamma(2 / shape) / gamma(1 / shape))
            features += [shape, mean, left, right]
    return np.stack(features, axis=1)


def _rolled(blocks: np.ndarray, down: int, right: int) -> np.ndarray:
    """`np.roll(blocks, (down, right), (1, 2))`, with one copy."""
    height, width = blocks.shape[1:]
    rolled = np.empty_like(blocks)
    for to_row, from_row in (
        (slice(down, None), slice(0, height - down)),
        (slice(0, down), slice(height - down, None)),
    ):
        rolled[:, to_row, right % width :] = blocks[:, from_row, : width - right % width]
        rolled[:, to_row, : right % width] = blocks[:, from_row, width - right % width :]
    return rolled


def block_moments(blocks: np.ndarray) -> np.ndarray:
    """Mean square of the negative and of the positive values, mean magnitude and mean square: `(N, 4)` fp32.

    NaN where a block has no value of that sign.
    """
    values = blocks.reshape(len(blocks), -1)
    squares = values * values
    moments = np.empty((len(blocks), 4), np.float32)
    for row, (value, square) in enumerate(zip(values, squares, strict=True)):
        for column, chosen in enumerate((value < 0, value > 0)):
            part = square.compress(chosen)
            moments[row, column] = np.add.reduce(part) / part.size if part.size else np.nan
    moments[:, 2] = np.abs(values).mean(axis=1)
    moments[:, 3] = squares.mean(axis=1)
    return moments


def fit_aggd(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asymmetric generalised Gaussian of each block (equation 7), by matching moments.

    Args:
        moments: `(N, 4)` of `block_moments`.

    Returns:
        shape, left scale and right scale, `(N,)` fp64; the scales are NaN where a moment is.
    """
    left_std, right_std = np.sqrt(moments[:, 0]), np.sqrt(moments[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = left_std / right_std
        target = moments[:, 2] ** 2 / moments[:, 3]
        target = target * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, table = _shape_table()
    target = target.astype(np.float64)
    upper = np.clip(np.searchsorted(table, target), 1, len(table) - 1)
    nearest = np.where((table[upper - 1] - target) ** 2 <= (table[upper] - target) ** 2, upper - 1, upper)
    shape = shapes[np.where(np.isnan(target), 0, nearest)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left_std * scale, right_std * scale


@lru_cache(maxsize=1)
def _shape_table() -> tuple[np.ndarray, np.ndarray]:
    """Shapes 0.2, 0.201 ... 10 and the moment ratio of each, which grows with the shape."""
    shapes = np.arange(0.2, 10.001, 0.001)
    inverse = np.reciprocal(shapes)
    return shapes, np.square(gamma(inverse * 2)) / (gamma(inverse) * gamma(inverse * 3))


@lru_cache(maxsize=1)
def _pristine() -> tuple[np.ndarray, np.ndarray]:
    """Mean `(36,)` and covariance `(36, 36)` of the features of natural images; origin: assets/NOTICE.txt."""
    with np.load(Path(__file__).parent / "assets" / "niqe_pristine.npz") as file:
        return file["mean"], file["covariance"]


def half_size(image: np.ndarray) -> np.ndarray:
    """MATLAB's `imresize(image, 0.5)` of `(H, W)` fp32, 0 to 255, both sides even.

    One matrix-vector product for each row, then for each column, as in BasicSR, so that the BLAS rounds the same.
    """
    taps, margin = torch.tensor(HALF_TAPS), 3
    padded = np.pad(image / np.float32(255), ((margin, margin), (0, 0)), mode="symmetric")
    rows = _half_lines(torch.from_numpy(padded), taps, along=0)
    padded = torch.from_numpy(np.pad(rows.numpy(), ((0, 0), (margin, margin)), mode="symmetric"))
    return _half_lines(padded, taps, along=1).T.contiguous().mul_(255).numpy()


def _half_lines(padded: torch.Tensor, taps: torch.Tensor, *, along: int) -> torch.Tensor:
    """Weighted sums of the windows that start at every second line along an axis, stacked along axis 0."""
    count = (padded.shape[along] - len(taps)) // 2 + 1
    lines = torch.empty(count, padded.shape[1 - along])
    for index in range(count):
        window = padded.narrow(along, 2 * index, len(taps))
        torch.mv(window.T if along == 0 else window, taps, out=lines[index])
    return lines
