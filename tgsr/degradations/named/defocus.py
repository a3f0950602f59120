"""Defocus blur: a disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import filter_batch, filter_image
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


def disk_kernel(radius_px: float) -> np.ndarray:
    """Smallest odd square that holds `{x^2 + y^2 <= r^2}`, sum 1."""
    reach = int(radius_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius_px**2).astype(np.float64)
    return kernel / kernel.sum()


@NAMED.register("defocus")
class Defocus(NamedDegradation):
    """Args:
    radius_px: range of the disk's radius.
    """

    name = "defocus"

    def __init__(self, *, radius_px: tuple[float, float] = (2.0, 2.0)) -> None:
        self.parameters = (value_range("defocus_radius_px", radius_px, within=(0, 64)),)

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        return filter_image(image, disk_kernel(row["defocus_radius_px"]))

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        return filter_batch(images, params, lambda row: disk_kernel(row["defocus_radius_px"]))
