"""Noise with reproducible fields: every sample's random numbers come from its own `noise_seed`, on the host.

The fields are drawn with NumPy's SFC64 in `(C, H, W)` order, so that both back ends, any batch and any number of
workers see the same numbers. Poisson counts are read off their exact distribution function with 32-bit uniforms.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

GUIDE_BITS = 10
_UNRESOLVED = np.uint16(0xFFFF)


def noise_generator(noise_seed: int, stage: int) -> np.random.Generator:
    """The stream of one noise stage (1 or 2) of one sample."""
    return np.random.Generator(np.random.SFC64([noise_seed & 0xFFFFFFFF, noise_seed >> 32, stage]))


def gaussian_field(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape, dtype=np.float32)


def uniform_field(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform uint32 numbers."""
    return rng.integers(0, 2**32, size=shape, dtype=np.uint32)


def num_poisson_levels(levels: np.ndarray) -> int:
    """The number of grey levels that Poisson noise assumes: distinct values of `levels` (uint8), up to a power of 2."""
    distinct = np.count_nonzero(cv2.calcHist([levels.reshape(1, -1)], [0], None, [256], [0, 256]))
    return 1 << int(distinct - 1).bit_length()


def poisson_counts(uniforms: np.ndarray, levels: np.ndarray, num_levels: int) -> np.ndarray:
    """Exact Poisson counts of mean `levels / 255 * num_levels` by inversion of the distribution function.

    Args:
        uniforms: uint32, any shape.
        levels: uint8, the same shape.
        num_levels: power of 2 up to 256.

    Returns:
        uint16 counts, the same shape. The law is exact up to the 2^-32 resolution of the uniforms.
    """
    guide, thresholds, first_count, first_entry = poisson_table(num_levels)
    index = levels.astype(np.uint32)
    index <<= GUIDE_BITS
    index |= uniforms >> (32 - GUIDE_BITS)
    counts = guide.take(index)
    open_cells = np.flatnonzero(counts == _UNRESOLVED)
    if len(open_cells):
        level = levels.reshape(-1)[open_cells].astype(np.int64)
        key = (level << 32) | uniforms.reshape(-1)[open_cells]
        found = np.searchsorted(thresholds, key, side="right") - first_entry[level] + first_count[level]
        counts.reshape(-1)[open_cells] = found
    return counts


@lru_cache(maxsize=9)
def poisson_table(num_levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distribution functions of the 256 means `level / 255 * num_levels`.

    Returns:
        guide: `(256 * 2^GUIDE_BITS,)` uint16, the count wherever the leading bits of the uniform fix it.
        thresholds: int64, sorted: `level * 2^32 + ceil(2^32 P(count <= k))`, levels one after another.
        first_count: `(256,)` the count k of a level's first threshold.
        first_entry: `(256,)` the place of a level's first threshold.
    """
    mean = np.arange(256, dtype=np.float64) / 255 * num_levels
    spread = 8 * np.sqrt(mean) + 30
    low = np.maximum(0, np.floor(mean - spread)).astype(np.int64)
    high = np.ceil(mean + spread).astype(np.int64)
    guide = np.empty((256, 1 << GUIDE_BITS), dtype=np.uint16)
    edges = np.arange(1 << GUIDE_BITS, dtype=np.int64) << (32 - GUIDE_BITS)
    last = edges + (1 << (32 - GUIDE_BITS)) - 1
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, high[-1] + 2)))])
    rows, first_entry, place = [], np.empty(256, dtype=np.int64), 0
    for level in range(256):
        count = np.arange(low[level], high[level] + 1)
        log_mean = np.log(mean[level]) if level else 0.0
        mass = np.exp(count * log_mean - mean[level] - log_factorial[count]) if level else (count == 0).astype(float)
        row = np.minimum(np.ceil(np.cumsum(mass) * 2.0**32), 2.0**32).astype(np.int64)
        row = row[: np.searchsorted(row, 2**32 - 1) + 1]
        row[-1] = 2**32
        first, final = (np.searchsorted(row, x, side="right") for x in (edges, last))
        guide[level] = np.where(first == final, first + low[level], _UNRESOLVED)
        rows.append(row + (level << 32))
        first_entry[level] = place
        place += len(row)
    return guide.reshape(-1), np.concatenate(rows), low, first_entry
