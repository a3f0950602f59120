"""The torch back end of the second-order pipeline: a batch on one canvas, some 300 operations whatever its size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from tgsr.degradations import ops_torch
from tgsr.degradations.jpeg import jpeg_codec, jpeg_torch, quality_factor
from tgsr.degradations.kernels import MAX_KERNEL_SIZE
from tgsr.degradations.noise import gaussian_field, noise_generator, uniform_field
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.degradations.second_order import NOISE_GAUSSIAN, NOISE_POISSON
from tgsr.degradations.second_order_rows import RESIZE_FIRST, final_kernels, resized, stage_kernels
from tgsr.degradations.taps import num_taps, resize_taps
from tgsr.utils.device import upload

_AREA = RESIZE_MODES.index("area")
_SOURCE, _STAGE1, _STAGE2, _TARGET = range(4)


class BatchRun:
    """One batch on its way through the operators.

    The samples lie in the upper left corners of one canvas. The host knows all sizes and choices beforehand and sends
    them in one copy; from then on nothing waits for the device, except for a real JPEG codec.

    Args:
        gt: `(B, 3, H, W)`; not changed.
        params: B rows.
        scale, jpeg: of the pipeline.
        generator: of all noise; None: from each sample's `noise_seed`.
    """

    def __init__(
        self,
        gt: torch.Tensor,
        params: DegradationParams,
        scale: int,
        jpeg: str,
        generator: torch.Generator | None,
    ) -> None:
        self.params, self.jpeg, self.generator, self.device = params, jpeg, generator, gt.device
        self.images = gt.float().contiguous()
        self.sizes, step = _sizes(params, (gt.shape[2], gt.shape[3]), scale)
        self.identity = [_is_identity(self.sizes[k], self.sizes[k + 1], step[k]) for k in range(3)]
        self.rows = _rows(params)
        axes = self._axes(step)
        self.sent = upload({**self._numbers(), **self._windows(), **axes}, self.device)
        lists = (axes[name].tolist() for name in ("length", "out_length", "mode"))
        index, weights = resize_taps(
            **{name: self.sent[name] for name in axes},
            num_out=int(self.sizes[1:].max()),
            taps=max(num_taps(*axis) for axis in zip(*lists, strict=True)),
        )
        self.dropped = int(self.sizes[:-1].max())
        taps = ops_torch.distinct_taps(index, weights, self.dropped)
        self.index, self.weights = (x.unflatten(0, (3, 2, params.batch_size)) for x in taps)

    def run(self) -> torch.Tensor:
        """`(B, 3, H // scale, W // scale)` float32, multiples of 1/255."""
        for stage in (1, 2):
            self._blur(f"blur{stage}", stage - 1)
            self._resize(stage - 1)
            self._noise(stage)
            if stage == 1:
                self._jpeg("between", _STAGE1)
        self._jpeg("before", _STAGE2)
        self._resize(2)
        self._blur("sinc", 2)
        self._jpeg("after", _TARGET)
        return ops_torch.quantise(self.images)

    def _numbers(self) -> dict[str, np.ndarray]:
        """Kernels, noise strengths, JPEG factors, and the samples that each operator is for."""
        p, out = self.params, {}
        out["kernels"] = np.stack([stage_kernels(p, 1), stage_kernels(p, 2), final_kernels(p)])
        factors = np.stack([quality_factor(p["jpeg1_quality"]), quality_factor(p["jpeg2_quality"])])
        last = factors[p["num_stages"] - 1, np.arange(p.batch_size)]
        for name, factor in (("between", factors[0]), ("before", last), ("after", last)):
            out[f"factor_{name}"] = factor[self.rows[name]].astype(np.float32)
        for k in (1, 2):
            sigma, scale = p[f"noise{k}_sigma_255"] / 255, p[f"noise{k}_poisson_scale"]
            for name, strength in ((f"gaussian{k}", sigma), (f"poisson{k}", scale)):
                out[f"strength_{name}"] = strength[self.rows[name]].astype(np.float32)
                out[f"gray_{name}"] = p[f"noise{k}_is_gray"][self.rows[name]] == 1
            out[f"is_noisy{k}"] = self._mask(f"gaussian{k}") | self._mask(f"poisson{k}")
            out[f"is_blur{k}"] = self._mask(f"blur{k}")
        out["is_sinc"] = self._mask("sinc")
        out["sizes"] = self.sizes
        return {**out, **{f"rows_{name}": rows for name, rows in self.rows.items()}}

    def _mask(self, name: str) -> np.ndarray:
        return np.isin(np.arange(self.params.batch_size), self.rows[name])

    def _windows(self) -> dict[str, np.ndarray]:
        """Where each blur reads."""
        half, out = MAX_KERNEL_SIZE // 2, {}
        for name, at in (("blur1", _SOURCE), ("blur2", _STAGE1), ("sinc", _TARGET)):
            rows, columns = ops_torch.blur_window(self.sizes[at, :, 0], self.sizes[at, :, 1], half)
            out[f"down_{name}"], out[f"across_{name}"] = rows, columns
        return out

    def _axes(self, step: np.ndarray) -> dict[str, np.ndarray]:
        """The axes of all resizes, three times height and width of B samples, for `resize_taps`."""
        length, out_length = (x.transpose(0, 2, 1) for x in (self.sizes[:-1], self.sizes[1:]))
        codes = np.stack([self.params[f"{name}_mode"] for name in ("resize1", "resize2", "final")])
        codes[1, self.params["num_stages"] == 1] = _AREA
        mode = np.repeat(codes[:, None], 2, 1).astype(np.int64)
        axes = {"length": length, "out_length": out_length, "step": step.transpose(0, 2, 1), "mode": mode}
        return {name: array.reshape(-1) for name, array in axes.items()}

    def _blur(self, name: str, which: int) -> None:
        if not len(self.rows[name]):
            return
        rows, columns = self.sent[f"down_{name}"], self.sent[f"across_{name}"]
        blurred = ops_torch.blur(self.images, self.sent["kernels"][which], rows, columns)
        self.images = self._where(f"is_{name}", len(self.rows[name]), blurred)

    def _resize(self, which: int) -> None:
        if self.identity[which]:
            return
        matrices = []
        for axis, length in enumerate(self.images.shape[2:]):
            num_out = int(self.sizes[which + 1, :, axis].max())
            index, weights = (x[which, axis, :, :num_out] for x in (self.index, self.weights))
            matrices.append(ops_torch.matrices(index, weights, self.dropped)[..., :length])
        self.images = ops_torch.resize(self.images, *matrices)

    def _noise(self, stage: int) -> None:
        noise, num_noisy = torch.zeros_like(self.images), 0
        for name, draw in ((f"gaussian{stage}", self._gaussian), (f"poisson{stage}", self._poisson)):
            if len(self.rows[name]):
                noise.index_copy_(0, self.sent[f"rows_{name}"], draw(name, stage))
                num_noisy += len(self.rows[name])
        if num_noisy:
            noisy = noise.add_(self.images).clamp_(0, 1)
            self.images = self._where(f"is_noisy{stage}", num_noisy, noisy)

    def _gaussian(self, name: str, stage: int) -> torch.Tensor:
        shape = (len(self.rows[name]), *self.images.shape[1:])
        if self.generator is None:
            field = self._host_fields(name, stage, gaussian_field)
        else:
            field = torch.randn(shape, generator=self.generator, device=self.device)
        field = field * self.sent[f"strength_{name}"].view(-1, 1, 1, 1)
        return ops_torch.one_field(field, self.sent[f"gray_{name}"].view(-1, 1, 1, 1))

    def _poisson(self, name: str, stage: int) -> torch.Tensor:
        return ops_torch.poisson_noise(
            self._taken(name),
            self.sent[f"strength_{name}"],
            self.sent[f"gray_{name}"],
            uniforms=self._host_fields(name, stage, uniform_field) if self.generator is None else None,
            generator=self.generator,
        )

    def _host_fields(
        self, name: str, stage: int, draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
    ) -> torch.Tensor:
        """The fields that `ops_cpu` draws from each sample's seed, on a canvas."""
        rows = self.rows[name]
        dtype = np.float32 if draw is gaussian_field else np.int64
        canvas = np.zeros((len(rows), *self.images.shape[1:]), dtype)
        for place, row in zip(canvas, rows.tolist(), strict=True):
            height, width = self.sizes[stage, row]
            channels = 1 if self.params[f"noise{stage}_is_gray"][row] else 3
            rng = noise_generator(int(self.params["noise_seed"][row]), stage)
            place[:channels, :height, :width] = draw(rng, (channels, height, width))
        return upload({"fields": canvas}, self.device)["fields"]

    def _jpeg(self, name: str, at: int) -> None:
        rows = self.rows[name]
        if not len(rows):
            return
        if self.jpeg == "codec":
            self._codec(name, at)
            return
        images, mask = self._taken(name), None
        if (self.sizes[at] != images.shape[2:]).any():
            sizes = self.sent["sizes"][at, self.sent[f"rows_{name}"]]
            mask = ops_torch.inside(sizes[:, 0], sizes[:, 1], tuple(images.shape[2:]))
        self._put(name, jpeg_torch(ops_torch.clear_outside(images, mask), self.sent[f"factor_{name}"]))

    def _codec(self, name: str, at: int) -> None:
        """On the host: one copy each way."""
        images = self._taken(name).cpu().numpy()
        out = np.zeros_like(images)
        for i, row in enumerate(self.rows[name].tolist()):
            height, width = self.sizes[at, row]
            stage = 1 if name == "between" else int(self.params["num_stages"][row])
            quality = self.params[f"jpeg{stage}_quality"][row]
            out[i, :, :height, :width] = jpeg_codec(images[i, :, :height, :width], quality)
        self._put(name, upload({"decoded": out}, self.device)["decoded"])

    def _taken(self, name: str) -> torch.Tensor:
        """The samples that an operator is for."""
        if len(self.rows[name]) == len(self.images):
            return self.images
        return self.images.index_select(0, self.sent[f"rows_{name}"])

    def _put(self, name: str, result: torch.Tensor) -> None:
        if len(self.rows[name]) < len(self.images):
            result = self.images.index_copy(0, self.sent[f"rows_{name}"], result)
        self.images = result

    def _where(self, mask: str, num: int, result: torch.Tensor) -> torch.Tensor:
        """The result for the `num` samples of a mask, the images as they are for the others."""
        if num == len(self.images):
            return result
        return torch.where(self.sent[mask].view(-1, 1, 1, 1), result, self.images)


def _rows(params: DegradationParams) -> dict[str, np.ndarray]:
    """Which samples (places in the batch, int64) each operator is for."""
    last = params["num_stages"]
    resize_first = params["final_order"] == RESIZE_FIRST
    has_last_jpeg = np.where(last == 1, params["jpeg1"], params["jpeg2"]) == 1
    chosen = {
        "sinc": params["final_sinc"] == 1,
        "between": (last == 2) & (params["jpeg1"] == 1),
        "before": has_last_jpeg & ~resize_first,
        "after": has_last_jpeg & resize_first,
    }
    for stage in (1, 2):
        active, kind = last >= stage, params[f"noise{stage}_kind"]
        chosen[f"blur{stage}"] = active & (params[f"blur{stage}"] == 1)
        chosen[f"gaussian{stage}"] = active & (kind == NOISE_GAUSSIAN)
        chosen[f"poisson{stage}"] = active & (kind == NOISE_POISSON)
    return {name: np.flatnonzero(c) for name, c in chosen.items()}


def _sizes(params: DegradationParams, source: tuple[int, int], scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Sizes before and after each resize, `(4, B, 2)` int64, and the steps of the three, `(3, B, 2)` float32."""
    sizes = np.empty((4, params.batch_size, 2), np.int64)
    sizes[_SOURCE] = source
    sizes[_TARGET] = source[0] // scale, source[1] // scale
    factors = np.full((3, params.batch_size), np.nan)
    for i, last in enumerate(params["num_stages"].tolist()):
        for stage in (1, 2):
            if stage > last:
                sizes[stage, i] = sizes[stage - 1, i]
                continue
            size, factor = resized(scale, source, stage, last, float(params[f"resize{stage}_scale"][i]))
            sizes[stage, i] = size
            factors[stage - 1, i] = np.nan if factor is None else factor
    ratio = sizes[:-1].astype(np.float32) / sizes[1:].astype(np.float32)
    given = (1 / factors).astype(np.float32)[..., None]
    return sizes, np.where(np.isnan(given), ratio, given)


def _is_identity(before: np.ndarray, after: np.ndarray, step: np.ndarray) -> bool:
    """Whether a resize leaves every sample and the canvas alone."""
    return bool((before == after).all() and (before == before[0]).all() and (step == 1).all())
