"""Filters and resizes along one axis as products with banded matrices, cut into dense blocks that a BLAS likes."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
import torch

from tgsr.degradations.borders import mirrored
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.degradations.taps import num_taps, resize_taps

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
    """One axis of `torch.nn.functional.interpolate` without antialiasing.

    Args:
        length, out_length: sides.
        mode: `area`, `bilinear` or `bicubic`.
        scale: the factor that fixes the sampling positions; None: `out_length / length`.
    """
    step = 1 / scale if scale is not None else np.float32(length) / np.float32(out_length)
    code = RESIZE_MODES.index(mode)
    index, weights = resize_taps(
        torch.tensor([length]),
        torch.tensor([out_length]),
        torch.tensor([step], dtype=torch.float32),
        code,
        num_out=out_length,
        taps=num_taps(length, out_length, code),
    )
    return blocks_from_taps(index[0].numpy(), weights[0].numpy())


def dense(blocks: list[Block]) -> np.ndarray:
    """The whole matrix, `(num_out, num_in)` float32."""
    matrix = np.zeros((blocks[-1].stop, max(b.high for b in blocks)), dtype=np.float32)
    for b in blocks:
        matrix[b.start : b.stop, b.low : b.high] = b.matrix
    return matrix
