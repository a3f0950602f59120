"""Noise taken from real images: smooth patches of a noisy source, their mean removed, added to clean small images.

Where a test set's noise is known by examples only, its flat regions are samples of it (Ji et al., "Real-World
Super-Resolution via Kernel Estimation and Noise Injection", CVPRW 2020).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tgsr.degradations.base import PIPELINES, SPACES, Backend, Pipeline, Space, noise_seed
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.resize import imresize

MADE_BY = "make it with run: {type: CollectNoise}"


def smooth_patches(image: np.ndarray, size: int) -> list[tuple[float, int, int]]:
    """Variance, top and left of the patches of an image that do not overlap.

    Args:
        image: `(H, W, 3)` uint8.
        size: edge, px; the rest at the right and bottom is left out.

    Returns:
        The variance is over all pixels and channels, in squared grey levels.
    """
    height, width = image.shape[0] // size, image.shape[1] // size
    grid = image[: height * size, : width * size].reshape(height, size, width, size, 3).astype(np.float64)
    variance = grid.var(axis=(1, 3, 4))
    return [(float(variance[i, j]), i * size, j * size) for i in range(height) for j in range(width)]


def load_patches(path: Path) -> np.ndarray:
    """`(N, size, size, 3)` uint8 of a `noise.npy`, mapped into memory.

    Raises:
        DataError: it is no such file.
    """
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"no patches of noise: {error.strerror}", place=str(path), remedy=MADE_BY) from None


@lru_cache(maxsize=4)
def _load(path: Path, _changed: int) -> np.ndarray:
    try:
        patches = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"no patches of noise: {error}", place=str(path), remedy=MADE_BY) from None
    if patches.ndim != 4 or patches.shape[-1] != 3 or patches.dtype != np.uint8 or not len(patches):
        problem = f"patches of noise are (N, size, size, 3) uint8, this is {patches.shape} {patches.dtype}"
        raise DataError(problem, place=str(path), remedy=MADE_BY)
    return patches


def cut_noise(patch: np.ndarray, top: float, left: float, height: int, width: int) -> np.ndarray:
    """A part of a patch of noise without its mean colour, continued by mirroring where it is too small.

    Args:
        patch: `(size, size, 3)` uint8.
        top, left: position as a share of what is free, in [0, 1).

    Returns:
        `(height, width, 3)` float32, in units of 1.
    """
    size = len(patch)
    rows, columns = (
        _mirrored(int(share * (max(0, size - length) + 1)) + np.arange(length), size)
        for share, length in ((top, height), (left, width))
    )
    noise = patch.astype(np.float32) - patch.mean(axis=(0, 1), dtype=np.float32)
    return noise[rows][:, columns] / 255


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    index = index % (2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


@PIPELINES.register("SourceNoise")
class SourceNoisePipeline(Pipeline):
    """Antialiased bicubic down-sampling, then a patch of collected noise; both back ends are the same code.

    Args:
        noise: `noise.npy` of the stage CollectNoise.
        scale: output height and width are `H // scale`, `W // scale`.
    """

    name = "SourceNoise"

    def __init__(self, *, noise: Path | str, scale: int = 4) -> None:
        if scale < 1:
            raise ConfigError(f"scale: {scale} must be at least 1", remedy="usual: 2, 3, 4")
        self.noise, self.scale = Path(noise), scale

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
        patches = load_patches(self.noise)
        if params["patch"].max() >= len(patches):
            problem = f"there are {len(patches)} patches of noise, patch {params['patch'].max()} is wanted"
            raise DataError(problem, place=str(self.noise), remedy="the parameters belong to another file")
        noise = np.stack([
            cut_noise(patches[k], top, left, h, w)
            for k, top, left in zip(params["patch"], params["top"], params["left"], strict=True)
        ])  # fmt: skip
        small = small + torch.from_numpy(noise).permute(0, 3, 1, 2).to(small, non_blocking=True)
        return (small * 255).round_().clamp_(0, 255).div_(255)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "noise": str(self.noise)}


@SPACES.register("SourceNoise")
class SourceNoiseSpace(Space):
    """Noise of a source: every patch of a file with even odds, at every position.

    Args:
        noise: `noise.npy` of the stage CollectNoise; read when the first parameters are drawn.
        scale: ratio of ground truth and output.
    """

    num_uniforms = 4

    def __init__(self, *, noise: Path, scale: int = 4) -> None:
        self._pipeline = SourceNoisePipeline(noise=noise, scale=scale)

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        count = len(load_patches(self._pipeline.noise))
        return DegradationParams({
            "patch": (uniforms[:, 1] * count).astype(np.int64),
            "top": uniforms[:, 2],
            "left": uniforms[:, 3],
            "noise_seed": noise_seed(uniforms[:, 0]),
        })  # fmt: skip

    def contains(self, params: DegradationParams) -> np.ndarray:
        if set(params) != {"patch", "top", "left", "noise_seed"}:
            return np.zeros(params.batch_size, dtype=bool)
        inside = (params["patch"] >= 0) & (params["patch"] < len(load_patches(self._pipeline.noise)))
        for name in ("top", "left"):
            inside &= (params[name] >= 0) & (params[name] < 1)
        return inside

    def to_json(self) -> dict[str, Any]:
        return {"type": "SourceNoise", "noise": str(self._pipeline.noise), "scale": self._pipeline.scale}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceNoiseSpace) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(str(self.to_json()))
