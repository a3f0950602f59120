"""Haze: the scattering model `J t + A (1 - t)` over a smooth random depth. Not one of the eleven of GRIDS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import resize_matrix
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams

GRID = 4


def depth_map(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 in [0, 1]: far at the top, near at the bottom, with smooth bumps."""
    height, width = size
    coarse = 0.6 * np.linspace(1, 0, GRID)[:, None] + 0.4 * rng.random((GRID, GRID))
    fine = resize_matrix(GRID, height, "bilinear") @ coarse @ resize_matrix(GRID, width, "bilinear").T
    return fine.astype(np.float32)


@NAMED.register("haze")
class Haze(NamedDegradation):
    """The depth comes from the noise seed.

    Args:
        thickness: range of the optical thickness at depth 1 (transmission `exp(-thickness * depth)`).
        airlight: range of the grey level of the air.
    """

    name = "haze"

    def __init__(
        self, *, thickness: tuple[float, float] = (0.6, 1.8), airlight: tuple[float, float] = (0.8, 1.0)
    ) -> None:
        self.parameters = (
            value_range("haze_thickness", thickness, within=(0, 100)),
            value_range("haze_airlight", airlight, within=(0, 1)),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        clear = _transmission(image.shape[:2], row, noise.host(0))[..., None]
        return image * clear + np.float32(row["haze_airlight"]) * (1 - clear)

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        size = tuple(images.shape[-2:])
        maps = np.stack([_transmission(size, params.row(i), noise.host(i)) for i in range(params.batch_size)])
        clear = torch.from_numpy(maps).to(images.device, non_blocking=True).unsqueeze(1)
        air = torch.from_numpy(params["haze_airlight"].astype(np.float32)).view(-1, 1, 1, 1)
        return images * clear + air.to(images.device, non_blocking=True) * (1 - clear)


def _transmission(size: tuple[int, int], row: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    return np.exp(-np.float32(row["haze_thickness"]) * depth_map(size, rng))
