"""Additive white Gaussian noise, independent in every pixel and channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


@NAMED.register("gaussian_noise")
class GaussianNoise(NamedDegradation):
    """Args:
    sigma_255: range of the standard deviation, in units of 1/255.
    """

    name = "gaussian_noise"

    def __init__(self, *, sigma_255: tuple[float, float] = (10.0, 50.0)) -> None:
        self.parameters = (value_range("gaussian_noise_sigma_255", sigma_255, within=(0, 255)),)

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        field = noise.normal((3, *image.shape[:2]))[0].permute(1, 2, 0).numpy()
        return image + field * np.float32(row["gaussian_noise_sigma_255"] / 255)

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        sigma = torch.from_numpy((params["gaussian_noise_sigma_255"] / 255).astype(np.float32)).view(-1, 1, 1, 1)
        return images + noise.normal(tuple(images.shape[1:])) * sigma.to(images.device, non_blocking=True)
