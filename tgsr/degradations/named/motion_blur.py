"""Linear motion blur: a line one pixel wide, turned by a random angle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import filter_batch, filter_image
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


def motion_kernel(length_px: int, angle_deg: float) -> np.ndarray:
    """(L, L) kernel, sum 1: a horizontal line of L ones through the centre, turned with bilinear interpolation."""
    radius = (length_px - 1) / 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    cosine, sine = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    along, across = cosine * x - sine * y, sine * x + cosine * y
    kernel = np.clip(1 - np.abs(across), 0, 1) * np.clip(radius + 1 - np.abs(along), 0, 1)
    return kernel / kernel.sum()


@NAMED.register("motion_blur")
class MotionBlur(NamedDegradation):
    """Args:
    length_px: range of the odd length of the line.
    angle_deg: range of its angle, counter-clockwise.
    """

    name = "motion_blur"

    def __init__(self, *, length_px: tuple[int, int] = (15, 15), angle_deg: tuple[float, float] = (0.0, 180.0)) -> None:
        self.parameters = (
            value_range("motion_length_px", length_px, within=(1, 255), step=2),
            value_range("motion_angle_deg", angle_deg, within=(-360, 360)),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        return filter_image(image, _kernel(row))

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        return filter_batch(images, params, _kernel)


def _kernel(row: Mapping[str, Any]) -> np.ndarray:
    return motion_kernel(int(row["motion_length_px"]), row["motion_angle_deg"])
