"""Applies second-order parameters to images: one sample at a time with OpenCV, or batched with torch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Literal

import numpy as np
import torch

from tgsr.degradations import ops_cpu, ops_torch
from tgsr.degradations.base import PIPELINES, Backend, Pipeline
from tgsr.degradations.jpeg import jpeg_codec, jpeg_torch, quality_factor
from tgsr.degradations.kernels import density_kernels, pulse_kernels, sinc_kernels
from tgsr.degradations.noise import noise_generator
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.utils.errors import ConfigError
from tgsr.utils.memory import keep_freed_memory
from tgsr.utils.threads import one_blas_thread

_GAUSSIAN, _POISSON = 0, 1
_RESIZE_FIRST = 0


def stage_kernels(params: DegradationParams, stage: int) -> np.ndarray:
    """Blur kernels `(B, 21, 21)` float32 of stage 1 or 2; a unit pulse where there is no blur."""
    p = {name: params[f"kernel{stage}_{name}"] for name in ("size", "is_sinc", "omega", "type")}
    shape = (params[f"kernel{stage}_{n}"] for n in ("sigma_x", "sigma_y", "theta", "beta_g", "beta_p"))
    blurred, sinc = params[f"blur{stage}"] == 1, p["is_sinc"] == 1
    kernels = pulse_kernels(params.batch_size)
    rows = np.flatnonzero(blurred & sinc)
    if len(rows):
        kernels[rows] = sinc_kernels(p["size"][rows], p["omega"][rows])
    rows = np.flatnonzero(blurred & ~sinc)
    if len(rows):
        kernels[rows] = density_kernels(p["size"][rows], p["type"][rows], *(c[rows] for c in shape))
    return kernels.astype(np.float32)


def final_kernels(params: DegradationParams) -> np.ndarray:
    """Final sinc kernels `(B, 21, 21)` float32; a unit pulse where there is none."""
    kernels = pulse_kernels(params.batch_size)
    rows = np.flatnonzero(params["final_sinc"] == 1)
    if len(rows):
        kernels[rows] = sinc_kernels(params["final_size"][rows], params["final_omega"][rows])
    return kernels.astype(np.float32)


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
            return _BatchRun(self, gt, params, generator).run()
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
            size, factor = _resized(self.scale, source, stage, last, row[f"resize{stage}_scale"])
            img = ops_cpu.resize(img, size, RESIZE_MODES[row[f"resize{stage}_mode"]], scale=factor)
            img = self._add_noise(img, row, stage, seed)
            if stage < last and row[f"jpeg{stage}"]:
                img = self._compress(img, row[f"jpeg{stage}_quality"])
        resize_first = row["final_order"] == _RESIZE_FIRST
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
        if kind == _GAUSSIAN:
            rng = noise_generator(seed, stage)
            return ops_cpu.add_gaussian(img, rng, sigma_255=row[f"noise{stage}_sigma_255"], gray=gray)
        if kind == _POISSON:
            rng = noise_generator(seed, stage)
            return ops_cpu.add_poisson(img, rng, scale=row[f"noise{stage}_poisson_scale"], gray=gray)
        return img


def _resized(
    scale: int, source: tuple[int, int], stage: int, last: int, factor: float
) -> tuple[tuple[int, int], float | None]:
    """Output size of a stage's resize, and the factor that fixes its sampling positions (None: the sizes do)."""
    h, w = source
    if stage == last:
        return (max(1, int(h / scale * factor)), max(1, int(w / scale * factor))), None
    size = (int(h * factor), int(w * factor))
    return (size, factor) if min(size) else ((max(1, size[0]), max(1, size[1])), None)


class _BatchRun:
    """One batch on its way through the torch back end: images in groups of equal size, parameters on the host."""

    def __init__(
        self,
        pipeline: SecondOrderPipeline,
        gt: torch.Tensor,
        params: DegradationParams,
        generator: torch.Generator | None,
    ) -> None:
        self.pipeline, self.params, self.generator = pipeline, params, generator
        self.device = gt.device
        self.source = (gt.shape[2], gt.shape[3])
        self.images: list[torch.Tensor] = list(gt.float().split(1))
        kernels = np.stack([stage_kernels(params, 1), stage_kernels(params, 2), final_kernels(params)])
        self.kernels = ops_torch.upload(torch.from_numpy(kernels), self.device)
        names = [f"noise{k}_{n}" for k in (1, 2) for n in ("sigma_255", "poisson_scale")]
        numbers = [params[n] for n in names] + [quality_factor(params[f"jpeg{k}_quality"]) for k in (1, 2)]
        uploaded = ops_torch.upload(torch.from_numpy(np.stack(numbers).astype(np.float32)), self.device)
        self.numbers = dict(zip([*names, "factor1", "factor2"], uploaded, strict=True))

    def run(self) -> torch.Tensor:
        p, scale = self.params, self.pipeline.scale
        target = (self.source[0] // scale, self.source[1] // scale)
        num_stages = p["num_stages"]
        for stage in (1, 2):
            active = num_stages >= stage
            self._blur(active & (p[f"blur{stage}"] == 1), stage - 1, p[f"kernel{stage}_size"])
            for i in np.flatnonzero(active):
                size, factor = _resized(scale, self.source, stage, num_stages[i], float(p[f"resize{stage}_scale"][i]))
                self._resize(i, size, int(p[f"resize{stage}_mode"][i]), factor)
            self._noise(active, stage)
            self._jpeg(active & (num_stages > stage), stage)
        resize_first = p["final_order"] == _RESIZE_FIRST
        for stage in (1, 2):
            self._jpeg((num_stages == stage) & ~resize_first, stage)
        for i in range(len(self.images)):
            self._resize(i, target, int(p["final_mode"][i]), None)
        self._blur(p["final_sinc"] == 1, 2, p["final_size"])
        for stage in (1, 2):
            self._jpeg((num_stages == stage) & resize_first, stage)
        return ops_torch.quantise(torch.cat(self.images))

    def _groups(self, chosen: np.ndarray) -> list[np.ndarray]:
        """The chosen samples, in groups of equal size."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i in np.flatnonzero(chosen):
            groups[tuple(self.images[i].shape[2:])].append(int(i))
        return [np.array(g) for g in groups.values()]

    def _gather(self, group: np.ndarray) -> torch.Tensor:
        return torch.cat([self.images[i] for i in group]) if len(group) > 1 else self.images[group[0]]

    def _scatter(self, group: np.ndarray, result: torch.Tensor) -> None:
        for i, image in zip(group, result.split(1), strict=True):
            self.images[i] = image

    def _rows(self, tensor: torch.Tensor, group: np.ndarray) -> torch.Tensor:
        """Rows of an uploaded tensor by host indices, without an index tensor to upload."""
        return torch.stack([tensor[int(i)] for i in group])

    def _blur(self, chosen: np.ndarray, which: int, sizes: np.ndarray) -> None:
        for group in self._groups(chosen):
            crop = (self.kernels.shape[-1] - int(sizes[group].max())) // 2
            kernels = self._rows(self.kernels[which], group)
            end = kernels.shape[-1] - crop
            self._scatter(group, ops_torch.blur(self._gather(group), kernels[:, crop:end, crop:end].contiguous()))

    def _resize(self, i: int, size: tuple[int, int], mode: int, factor: float | None) -> None:
        image = self.images[i]
        if size != tuple(image.shape[2:]) or factor not in (None, 1.0):
            self.images[i] = ops_torch.resize(image, size, RESIZE_MODES[mode], scale=factor)

    def _noise(self, active: np.ndarray, stage: int) -> None:
        kind, is_gray = self.params[f"noise{stage}_kind"], self.params[f"noise{stage}_is_gray"] == 1
        for gray in (False, True):
            for group in self._groups(active & (kind == _GAUSSIAN) & (is_gray == gray)):
                image = self._gather(group)
                sigma = self._rows(self.numbers[f"noise{stage}_sigma_255"], group)
                field = self._gaussian_field(image, group, stage, gray)
                self._scatter(group, ops_torch.add_gaussian(image, field, sigma))
            for group in self._groups(active & (kind == _POISSON) & (is_gray == gray)):
                image = self._gather(group)
                scale = self._rows(self.numbers[f"noise{stage}_poisson_scale"], group)
                uniforms = None if self.generator is not None else self._uniforms(image, group, stage, gray)
                result = ops_torch.add_poisson(image, scale, gray=gray, uniforms=uniforms, generator=self.generator)
                self._scatter(group, result)

    def _gaussian_field(self, image: torch.Tensor, group: np.ndarray, stage: int, gray: bool) -> torch.Tensor:
        b, c, h, w = image.shape
        if self.generator is not None:
            shape = (b, 1 if gray else c, h, w)
            return torch.randn(shape, generator=self.generator, device=self.device)
        rngs = (noise_generator(int(self.params["noise_seed"][i]), stage) for i in group)
        fields = torch.cat([ops_torch.host_gaussian(rng, (h, w), gray=gray) for rng in rngs])
        return ops_torch.upload(fields, self.device)

    def _uniforms(self, image: torch.Tensor, group: np.ndarray, stage: int, gray: bool) -> torch.Tensor:
        rngs = (noise_generator(int(self.params["noise_seed"][i]), stage) for i in group)
        fields = torch.cat([ops_torch.host_uniforms(rng, tuple(image.shape[2:]), gray=gray) for rng in rngs])
        return ops_torch.upload(fields, self.device)

    def _jpeg(self, chosen: np.ndarray, stage: int) -> None:
        for group in self._groups(chosen & (self.params[f"jpeg{stage}"] == 1)):
            image = self._gather(group).clamp(0, 1)
            if self.pipeline.jpeg == "diffjpeg":
                self._scatter(group, jpeg_torch(image, self._rows(self.numbers[f"factor{stage}"], group)))
                continue
            qualities = self.params[f"jpeg{stage}_quality"][group]
            decoded = [jpeg_codec(x, q) for x, q in zip(image.cpu().numpy(), qualities, strict=True)]
            self._scatter(group, ops_torch.upload(torch.from_numpy(np.stack(decoded)), self.device))
