"""Rain: bright streaks along one direction. Not one of the eleven of GRIDS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.motion_blur import motion_kernel
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


@NAMED.register("rain")
class Rain(NamedDegradation):
    """Drops at random pixels, drawn out to streaks and added as light.

    Args:
        density: range of drops per pixel.
        length_px: range of the odd length of a streak.
        angle_deg: range of their direction; 90 falls straight down.
        strength: range of the brightness a drop adds at its centre line.
    """

    name = "rain"

    def __init__(
        self,
        *,
        density: tuple[float, float] = (0.005, 0.015),
        length_px: tuple[int, int] = (11, 25),
        angle_deg: tuple[float, float] = (60.0, 120.0),
        strength: tuple[float, float] = (0.3, 0.7),
    ) -> None:
        self.parameters = (
            value_range("rain_density", density, within=(0, 1)),
            value_range("rain_length_px", length_px, within=(1, 255), step=2),
            value_range("rain_angle_deg", angle_deg, within=(-360, 360)),
            value_range("rain_strength", strength, within=(0, 1)),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        return image + _streaks(image.shape[:2], row, noise.host(0))[..., None]

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        size = tuple(images.shape[-2:])
        layers = np.stack([_streaks(size, params.row(i), noise.host(i)) for i in range(params.batch_size)])
        return images + torch.from_numpy(layers).to(images.device, non_blocking=True).unsqueeze(1)


def _streaks(size: tuple[int, int], row: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    drops = (rng.random(size) < row["rain_density"]).astype(np.float32)
    kernel = motion_kernel(int(row["rain_length_px"]), row["rain_angle_deg"])
    light = cv2.filter2D(drops, cv2.CV_32F, (kernel / kernel.max()).astype(np.float32), borderType=cv2.BORDER_CONSTANT)
    return np.minimum(light, 1) * np.float32(row["rain_strength"])
