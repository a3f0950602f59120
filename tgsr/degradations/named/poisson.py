"""Poisson (shot) noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


@NAMED.register("poisson")
class PoissonNoise(NamedDegradation):
    """`Poisson(v x) / v`, each pixel and channel for itself.

    Args:
        photons: range of v, the mean count of a white pixel.
    """

    name = "poisson"

    def __init__(self, *, photons: tuple[float, float] = (100.0, 100.0)) -> None:
        self.parameters = (value_range("poisson_photons", photons, within=(0.01, 1e6)),)

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        planes = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
        photons = torch.tensor(row["poisson_photons"], dtype=torch.float32)
        return (noise.poisson(planes * photons) / photons)[0].permute(1, 2, 0).numpy()

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        photons = torch.from_numpy(params["poisson_photons"].astype(np.float32)).view(-1, 1, 1, 1)
        photons = photons.to(images.device, non_blocking=True)
        return noise.poisson((images * photons).contiguous()) / photons
