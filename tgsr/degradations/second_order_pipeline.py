"""Applies second-order parameters to images: one sample at a time with OpenCV, or batched with torch."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from tgsr.degradations import ops_cpu
from tgsr.degradations.base import PIPELINES, Backend, Pipeline
from tgsr.degradations.jpeg import jpeg_codec
from tgsr.degradations.noise import noise_generator
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.degradations.second_order import NOISE_GAUSSIAN, NOISE_POISSON
from tgsr.degradations.second_order_batch import BatchRun
from tgsr.degradations.second_order_rows import RESIZE_FIRST, final_kernels, resized, stage_kernels
from tgsr.utils.device import full_precision
from tgsr.utils.errors import ConfigError
from tgsr.utils.memory import keep_freed_memory
from tgsr.utils.threads import one_blas_thread


@PIPELINES.register("SecondOrder")
class SecondOrderPipeline(Pipeline):
    """Blur, resize, noise, JPEG, twice; then resize and sinc filter before or after the last JPEG (Real-ESRGAN).

    The first resize is relative to the image (as by a scale factor), the last stage's is relative to the output size.
    With one stage the second is left out. Images are clipped before each JPEG and rounded to 8 bits at the end.

    Args:
        scale: output height and width are `H // scale`, `W // scale`.
        jpeg: `diffjpeg`, the arithmetic of DiffJPEG with real-valued quality, or `codec`, OpenCV's codec at integer
            quality on the host (faster on a CPU, a copy to and fro on a GPU).
    """

    name = "SecondOrder"

    def __init__(self, *, scale: int = 4, jpeg: Literal["diffjpeg", "codec"] = "diffjpeg") -> None:
        if jpeg not in ("diffjpeg", "codec"):
            raise ConfigError(f"jpeg: there is no '{jpeg}'", remedy="choose diffjpeg or codec")
        self.scale, self.jpeg = scale, jpeg

    def to_json(self) -> dict[str, Any]:
        return {"type": self.name, "scale": self.scale, "jpeg": self.jpeg}

    @torch.no_grad()
    def apply(
        self,
        gt: torch.Tensor,
        params: DegradationParams,
        generator: torch.Generator | None = None,
        backend: Backend = "auto",
    ) -> torch.Tensor:
        if len(gt) != params.batch_size:
            raise ValueError(f"{len(gt)} images but {params.batch_size} rows of parameters")
        if backend == "auto":
            backend = "cpu" if gt.device.type == "cpu" else "torch"
        if backend == "torch":
            with full_precision(gt.device):
                return BatchRun(gt, params, self.scale, self.jpeg, generator).run()
        keep_freed_memory()
        seeds = params["noise_seed"]
        if generator is not None:
            drawn = torch.randint(2**62, (len(gt),), generator=generator, device=generator.device)
            seeds = drawn.cpu().numpy()
        kernels = [stage_kernels(params, 1), stage_kernels(params, 2), final_kernels(params)]
        out = torch.empty(len(gt), 3, gt.shape[2] // self.scale, gt.shape[3] // self.scale)
        with one_blas_thread():
            for i in range(len(gt)):
                planes = gt[i].detach().cpu().float().contiguous().numpy()
                lq = self.apply_one(planes, params.row(i), [k[i] for k in kernels], int(seeds[i]))
                out[i] = torch.from_numpy(lq)
        return out.to(gt.device)

    def apply_one(self, img: np.ndarray, row: dict[str, Any], kernels: list[np.ndarray], seed: int) -> np.ndarray:
        """Degrade one `(3, H, W)` float32 RGB image in [0, 1].

        Args:
            img: the ground truth; not changed.
            row: one row of the parameters.
            kernels: of stage 1, of stage 2, and the final one.
            seed: of the noise.
        """
        target = (img.shape[1] // self.scale, img.shape[2] // self.scale)
        last = int(row["num_stages"])
        source = img.shape[1:]
        for stage in range(1, last + 1):
            if row[f"blur{stage}"]:
                img = ops_cpu.blur(img, kernels[stage - 1])
            size, factor = resized(self.scale, source, stage, last, row[f"resize{stage}_scale"])
            img = ops_cpu.resize(img, size, RESIZE_MODES[row[f"resize{stage}_mode"]], scale=factor)
            img = self._add_noise(img, row, stage, seed)
            if stage < last and row[f"jpeg{stage}"]:
                img = self._compress(img, row[f"jpeg{stage}_quality"])
        resize_first = row["final_order"] == RESIZE_FIRST
        if not resize_first and row[f"jpeg{last}"]:
            img = self._compress(img, row[f"jpeg{last}_quality"])
        img = ops_cpu.resize(img, target, RESIZE_MODES[row["final_mode"]])
        if row["final_sinc"]:
            img = ops_cpu.blur(img, kernels[2])
        if resize_first and row[f"jpeg{last}"]:
            img = self._compress(img, row[f"jpeg{last}_quality"])
        return ops_cpu.quantise(img)

    def _compress(self, img: np.ndarray, quality: float) -> np.ndarray:
        return ops_cpu.jpeg(img, quality) if self.jpeg == "diffjpeg" else jpeg_codec(img, quality)

    @staticmethod
    def _add_noise(img: np.ndarray, row: dict[str, Any], stage: int, seed: int) -> np.ndarray:
        kind, gray = row[f"noise{stage}_kind"], bool(row[f"noise{stage}_is_gray"])
        if kind == NOISE_GAUSSIAN:
            rng = noise_generator(seed, stage)
            return ops_cpu.add_gaussian(img, rng, sigma_255=row[f"noise{stage}_sigma_255"], gray=gray)
        if kind == NOISE_POISSON:
            rng = noise_generator(seed, stage)
            return ops_cpu.add_poisson(img, rng, scale=row[f"noise{stage}_poisson_scale"], gray=gray)
        return img
