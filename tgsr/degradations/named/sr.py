"""Down-sampling by a random factor and back to the original size (super-resolution at equal size)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.filters import resize_matrix
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import ConfigError

MODES = ("bilinear", "bicubic", "area")
_CV2_MODES = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


@NAMED.register("sr")
class DownAndUp(NamedDegradation):
    """Each of the two steps draws its own interpolation (OpenCV's definitions: only `area` is antialiased).

    Args:
        factor: range of the size of the small image relative to the original.
        modes: which of bilinear, bicubic and area may be drawn; a neighbouring part of that list.
    """

    name = "sr"

    def __init__(self, *, factor: tuple[float, float] = (0.2, 1.0), modes: list[str] | None = None) -> None:
        chosen = list(MODES) if modes is None else modes
        places = sorted(MODES.index(m) for m in chosen if m in MODES)
        if len(places) != len(chosen) or not places or places[-1] - places[0] != len(places) - 1:
            raise ConfigError(f"sr: modes {chosen}", remedy=f"give one mode or neighbours of {list(MODES)}")
        self.parameters = (
            value_range("sr_factor", factor, within=(0.01, 4)),
            value_range("sr_down_mode", (places[0], places[-1]), step=1),
            value_range("sr_up_mode", (places[0], places[-1]), step=1),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        height, width = image.shape[:2]
        small = (_small(width, row["sr_factor"]), _small(height, row["sr_factor"]))
        down = cv2.resize(image, small, interpolation=_CV2_MODES[int(row["sr_down_mode"])])
        return cv2.resize(down, (width, height), interpolation=_CV2_MODES[int(row["sr_up_mode"])])

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        """Both steps together are one matrix a sample and axis, so samples of different factors share one product."""
        height, width = images.shape[-2:]
        rows = [params.row(i) for i in range(params.batch_size)]
        vertical = _to_device(np.stack([_down_up(height, r) for r in rows]), images.device)
        horizontal = _to_device(np.stack([_down_up(width, r) for r in rows]), images.device)
        return vertical @ images @ horizontal.transpose(-1, -2)


def _small(length: int, factor: float) -> int:
    return max(1, int(length * factor))


def _down_up(length: int, row: Mapping[str, Any]) -> np.ndarray:
    small = _small(length, row["sr_factor"])
    down = resize_matrix(length, small, MODES[int(row["sr_down_mode"])])
    return resize_matrix(small, length, MODES[int(row["sr_up_mode"])]) @ down


def _to_device(matrices: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(matrices.astype(np.float32)).unsqueeze(1).to(device, non_blocking=True)
