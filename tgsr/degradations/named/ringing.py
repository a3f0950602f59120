"""Ringing: a circular low-pass (sinc) filter with a sharp cut-off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import j1

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import filter_batch, filter_image
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


def circular_lowpass(size_px: int, cutoff: float) -> np.ndarray:
    """(k, k) kernel `w J1(w r) / (2 pi r)`, centre `w^2 / (4 pi)`, divided by its sum; cutoff w in (0, pi]."""
    radius = (size_px - 1) / 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    r = np.hypot(x, y)
    safe = np.where(r == 0, 1.0, r)
    kernel = np.where(r == 0, cutoff**2 / (4 * np.pi), cutoff * j1(cutoff * safe) / (2 * np.pi * safe))
    return kernel / kernel.sum()


@NAMED.register("ringing")
class Ringing(NamedDegradation):
    """Args:
    cutoff: range of the cut-off frequency in radians per pixel.
    size_px: range of the odd kernel size.
    """

    name = "ringing"

    def __init__(self, *, cutoff: tuple[float, float] = (1.2, 1.2), size_px: tuple[int, int] = (15, 15)) -> None:
        self.parameters = (
            value_range("ringing_cutoff", cutoff, within=(0.01, 3.15)),
            value_range("ringing_size_px", size_px, within=(1, 255), step=2),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        return filter_image(image, _kernel(row))

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        return filter_batch(images, params, _kernel)


def _kernel(row: Mapping[str, Any]) -> np.ndarray:
    return circular_lowpass(int(row["ringing_size_px"]), row["ringing_cutoff"])
