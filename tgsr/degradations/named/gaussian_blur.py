"""Isotropic Gaussian blur in a fixed window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import filter_batch
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


def gaussian_taps(window_px: int, sigma_px: float) -> np.ndarray:
    """(window,) samples of a Gaussian, sum 1."""
    place = np.arange(window_px) - (window_px - 1) / 2
    taps = np.exp(-(place**2) / (2 * sigma_px**2))
    return taps / taps.sum()


@NAMED.register("gaussian_blur")
class GaussianBlur(NamedDegradation):
    """Args:
    sigma_px: range of the standard deviation.
    window_px: odd window, reflect-101 border.
    """

    name = "gaussian_blur"

    def __init__(self, *, sigma_px: tuple[float, float] = (2.0, 4.0), window_px: tuple[int, int] = (15, 15)) -> None:
        self.parameters = (
            value_range("gaussian_blur_sigma_px", sigma_px, within=(0.01, 100)),
            value_range("gaussian_blur_window_px", window_px, within=(1, 255), step=2),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        taps = gaussian_taps(int(row["gaussian_blur_window_px"]), row["gaussian_blur_sigma_px"]).astype(np.float32)
        return cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT_101)

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        return filter_batch(images, params, _kernel)


def _kernel(row: Mapping[str, Any]) -> np.ndarray:
    taps = gaussian_taps(int(row["gaussian_blur_window_px"]), row["gaussian_blur_sigma_px"])
    return np.outer(taps, taps)
