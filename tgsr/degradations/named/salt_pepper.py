"""Salt and pepper noise: whole pixels replaced by white or black."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


@NAMED.register("salt_pepper")
class SaltPepper(NamedDegradation):
    """Args:
    density: range of the share of replaced pixels.
    salt: range of the share of white among them.
    """

    name = "salt_pepper"

    def __init__(self, *, density: tuple[float, float] = (0.05, 0.05), salt: tuple[float, float] = (0.5, 0.5)) -> None:
        self.parameters = (
            value_range("salt_pepper_density", density, within=(0, 1)),
            value_range("salt_pepper_salt", salt, within=(0, 1)),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        draw = noise.uniform((1, *image.shape[:2]))[0, 0].numpy()[..., None]
        density = np.float32(row["salt_pepper_density"])
        salted = draw < density * np.float32(row["salt_pepper_salt"])
        return np.where(draw < density, salted.astype(np.float32), image)

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        columns = [params["salt_pepper_density"], params["salt_pepper_salt"]]
        shares = torch.from_numpy(np.stack(columns).astype(np.float32)).to(images.device, non_blocking=True)
        density, salt = shares.view(2, -1, 1, 1, 1)
        draw = noise.uniform((1, *images.shape[-2:]))
        return torch.where(draw < density, (draw < density * salt).to(images.dtype), images)
