"""Missing strokes: thick straight lines of one colour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch

from tgsr.degradations.named.base import NAMED, NamedDegradation, value_range
from tgsr.degradations.named.noise import NoiseSource
from tgsr.degradations.params import DegradationParams


def stroke_mask(size: tuple[int, int], num_lines: int, thickness_px: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 mask of segments between uniformly random end points."""
    height, width = size
    mask = np.zeros((height, width), dtype=np.uint8)
    ends = rng.random((num_lines, 2, 2)) * (width, height)
    for start, stop in ends.astype(int):
        cv2.line(mask, start.tolist(), stop.tolist(), 1, thickness_px)
    return mask


@NAMED.register("inpainting")
class Inpainting(NamedDegradation):
    """The end points come from the noise seed: they are the realisation, not a parameter.

    Args:
        num_lines: range of the number of lines.
        thickness_px: range of their thickness, one for all lines of an image.
        white: [0, 1] draws black or white lines alike, [1, 1] white ones only.
    """

    name = "inpainting"

    def __init__(
        self,
        *,
        num_lines: tuple[int, int] = (5, 10),
        thickness_px: tuple[int, int] = (5, 10),
        white: tuple[int, int] = (0, 1),
    ) -> None:
        self.parameters = (
            value_range("inpainting_num_lines", num_lines, within=(0, 1000), step=1),
            value_range("inpainting_thickness_px", thickness_px, within=(1, 1000), step=1),
            value_range("inpainting_white", white, within=(0, 1), step=1),
        )

    @staticmethod
    def apply_image(image: np.ndarray, row: Mapping[str, Any], noise: NoiseSource) -> np.ndarray:
        mask = _mask(image.shape[:2], row, noise.host(0))
        return np.where(mask[..., None] > 0, np.float32(row["inpainting_white"]), image)

    @staticmethod
    def apply_batch(images: torch.Tensor, params: DegradationParams, noise: NoiseSource) -> torch.Tensor:
        size = tuple(images.shape[-2:])
        masks = np.stack([_mask(size, params.row(i), noise.host(i)) for i in range(params.batch_size)])
        colours = torch.from_numpy(params["inpainting_white"].astype(np.float32)).view(-1, 1, 1, 1)
        mask = torch.from_numpy(masks).to(images.device, non_blocking=True).unsqueeze(1) > 0
        return torch.where(mask, colours.to(images.device, non_blocking=True), images)


def _mask(size: tuple[int, int], row: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
    return stroke_mask(size, int(row["inpainting_num_lines"]), int(row["inpainting_thickness_px"]), rng)
