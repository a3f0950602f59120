"""Classical degradation: bicubic down-sampling as MATLAB's `imresize`, nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tgsr.degradations.base import PIPELINES, SPACES, Backend, Pipeline, Space, noise_seed
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import ConfigError
from tgsr.utils.resize import imresize


@PIPELINES.register("Bicubic")
class BicubicPipeline(Pipeline):
    """Antialiased bicubic down-sampling; both back ends are the same code.

    Args:
        scale: output height and width are `H // scale`, `W // scale` (the rest at the right and bottom is cut off).
    """

    name = "Bicubic"

    def __init__(self, *, scale: int = 4) -> None:
        if scale < 1:
            raise ConfigError(f"scale: {scale} must be at least 1", remedy="usual: 2, 3, 4")
        self.scale = scale

    @torch.no_grad()
    def apply(
        self,
        gt: torch.Tensor,
        params: DegradationParams,
        generator: torch.Generator | None = None,
        backend: Backend = "auto",
    ) -> torch.Tensor:
        h, w = gt.shape[2] // self.scale, gt.shape[3] // self.scale
        small = imresize(gt[:, :, : h * self.scale, : w * self.scale], 1 / self.scale, size=(h, w))
        return (small * 255).round_().clamp_(0, 255).div_(255)


@SPACES.register("Bicubic")
class BicubicSpace(Space):
    """The one point of bicubic down-sampling.

    Args:
        scale: ratio of ground truth and output.
    """

    num_uniforms = 1

    def __init__(self, *, scale: int = 4) -> None:
        self._pipeline = BicubicPipeline(scale=scale)

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        return DegradationParams({"noise_seed": noise_seed(uniforms[:, 0])})

    def contains(self, params: DegradationParams) -> np.ndarray:
        return np.full(params.batch_size, set(params) == {"noise_seed"})

    def to_json(self) -> dict[str, Any]:
        return {"type": "Bicubic", "scale": self._pipeline.scale}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BicubicSpace) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(("Bicubic", self._pipeline.scale))
