"""Banding: too few grey levels. Not one of the eleven of GRIDS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


@NAMED.register("banding")
class Banding(NamedDegradation):
    """Args:
    num_levels: range of the number of evenly spaced levels of each channel, 0 and 1 among them.
    """

    name = "banding"

    def __init__(self, *, num_levels: tuple[int, int] = (6, 16)) -> None:
        self.parameters = (value_range("banding_num_levels", num_levels, within=(2, 256), step=1),)

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        steps = np.float32(row["banding_num_levels"] - 1)
        return np.round(image * steps) / steps

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        steps = torch.from_numpy((params["banding_num_levels"] - 1).astype(np.float32)).view(-1, 1, 1, 1)
        steps = steps.to(images.device, non_blocking=True)
        return (images * steps).round() / steps
