"""A one-parameter degradation for the tests of task grouping: box average, then noise of a drawn strength."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from tgsr.degradations.base import PIPELINES, SPACES, Pipeline, Space, noise_seed
from tgsr.degradations.params import DegradationParams
from tgsr.tasks.task import draw_point_tasks


@PIPELINES.register("toy-noise")
class ToyPipeline(Pipeline):
    """Area down-sampling by `scale`, then Gaussian noise of standard deviation `sigma`; from 9 on the image is NaN."""

    name = "toy-noise"

    def __init__(self, *, scale: int = 4) -> None:
        self.scale = scale

    def apply(self, gt, params, generator=None, backend="auto"):
        low = functional.avg_pool2d(gt, self.scale)
        noise = np.stack(
            [np.random.default_rng(int(seed)).standard_normal(low.shape[1:]) for seed in params["noise_seed"]]
        )
        sigma = torch.from_numpy(params["sigma"]).float().view(-1, 1, 1, 1)
        low = torch.where(sigma < 9, low, torch.nan)
        return (low + sigma * torch.from_numpy(noise).float()).clamp(0, 1).mul(255).round() / 255


@SPACES.register("ToySpace")
class ToySpace(Space):
    """sigma ~ U(0, high / 10)."""

    num_uniforms = 2

    def __init__(self, *, high: float = 1.0) -> None:
        self.high = high

    @property
    def pipeline(self) -> Pipeline:
        return ToyPipeline()

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        return DegradationParams({"sigma": uniforms[:, 0] * self.high / 10, "noise_seed": noise_seed(uniforms[:, 1])})

    def contains(self, params: DegradationParams) -> np.ndarray:
        return params["sigma"] <= self.high / 10

    def to_json(self) -> dict:
        return {"type": "ToySpace", "high": self.high}


def toy_space(high: float = 1.0) -> ToySpace:
    return ToySpace(high=high)


def toy_tasks(num: int):
    return draw_point_tasks(toy_space(), num, seed=7)
