"""Filters and resizes along one axis as products with banded matrices, cut into dense blocks that a BLAS likes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from tgsr.degradations.borders import mirrored

_BLOCK = 24


class Block(NamedTuple):
    """Rows `[start, stop)` of a banded matrix, whose non-zero columns lie in `[low, high)`."""

    start: int
    stop: int
    low: int
    high: int
    matrix: np.ndarray


def blocks_from_taps(index: np.ndarray, weights: np.ndarray) -> list[Block]:
    """Blocks of the matrix with `weights[i, t]` added at `(i, index[i, t])`; both are `(num_out, num_taps)`."""
    starts = np.arange(0, len(index), _BLOCK)
    low = np.minimum.reduceat(index.min(1), starts)
    high = np.maximum.reduceat(index.max(1), starts) + 1
    block = np.arange(len(index)) // _BLOCK
    width = (high - low)[block]
    row_start = np.concatenate([[0], np.cumsum(width)])
    place = index + (row_start[:-1] - low[block])[:, None]
    flat = np.bincount(place.ravel(), weights.ravel(), minlength=row_start[-1]).astype(np.float32)
    blocks = []
    for start, first, last in zip(starts.tolist(), low.tolist(), high.tolist(), strict=True):
        stop = min(start + _BLOCK, len(index))
        matrix = flat[row_start[start] : row_start[stop]].reshape(stop - start, last - first)
        blocks.append(Block(start, stop, first, last, matrix))
    return blocks


def apply(img: np.ndarray, rows: list[Block], columns: list[Block]) -> np.ndarray:
    """Matrix products along height and width of `(C, H, W)` float32 planes."""
    c, h, w = img.shape
    tall = np.empty((c, rows[-1].stop, w), dtype=np.float32)
    for b in rows:
        np.matmul(b.matrix, img[:, b.low : b.high], out=tall[:, b.start : b.stop])
    flat = tall.reshape(-1, w)
    out = np.empty((len(flat), columns[-1].stop), dtype=np.float32)
    for b in columns:
        np.matmul(flat[:, b.low : b.high], b.matrix.T, out=out[:, b.start : b.stop])
    return out.reshape(c, rows[-1].stop, -1)


@lru_cache(maxsize=16)
def gaussian_blocks(length: int, width: int) -> list[Block]:
    """A Gaussian of odd `width` taps with OpenCV's automatic sigma, reflecting at the ends (edge not repeated)."""
    source = mirrored(np.array([length]), width // 2, length + width - 1)[0]
    index = np.lib.stride_tricks.sliding_window_view(source, width)
    taps = cv2.getGaussianKernel(width, 0).astype(np.float32).reshape(1, -1)
    return blocks_from_taps(index, np.broadcast_to(taps, index.shape))


@lru_cache(maxsize=8)
def resize_blocks(length: int, out_length: int, mode: str, scale: float | None) -> list[Block]:
    """One axis of `torch.nn.functional.interpolate` without antialiasing; `taps.resize_taps` for one axis, in NumPy,
    which takes half of torch's time for so few numbers.

    Args:
        length, out_length: sides.
        mode: `area`, `bilinear` or `bicubic`.
        scale: the factor that fixes the sampling positions; None: `out_length / length`.
    """
    place = np.arange(out_length)
    if mode == "area":
        first, last = place * length // out_length, -(-(place + 1) * length // out_length)
        index = first[:, None] + np.arange((last - first).max())
        weights = (index < last[:, None]) / (last - first)[:, None]
        return blocks_from_taps(np.minimum(index, length - 1), weights)
    # float32 throughout, like torch: at a sharp edge the rounding of the position is visible
    step = np.float32(1 / scale) if scale is not None else np.float32(length) / np.float32(out_length)
    centre = (place.astype(np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    if mode == "bilinear":
        centre = np.maximum(centre, 0)
        first = np.minimum(centre.astype(np.int64), length - 1)
        part = np.clip(centre - first.astype(np.float32), 0, 1)
        index = np.stack([first, np.minimum(first + 1, length - 1)], 1)
        return blocks_from_taps(index, np.stack([1 - part, part], 1))
    first = np.floor(centre)
    weights = _cubic_weights((centre - first).astype(np.float64))
    index = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, length - 1)
    return blocks_from_taps(index, weights)


def dense(blocks: list[Block]) -> np.ndarray:
    """The whole matrix, `(num_out, num_in)` float32."""
    matrix = np.zeros((blocks[-1].stop, max(b.high for b in blocks)), dtype=np.float32)
    for b in blocks:
        matrix[b.start : b.stop, b.low : b.high] = b.matrix
    return matrix


def _cubic_weights(t: np.ndarray) -> np.ndarray:
    """Weights of the four neighbours at fraction `t`, `(n, 4)`, for a = -0.75 (torch and OpenCV)."""
    a = -0.75

    def near(x: np.ndarray) -> np.ndarray:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: np.ndarray) -> np.ndarray:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], 1)
