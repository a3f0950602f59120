"""The second-order pipeline: purity, batch and loop, back ends, and the published sequence of operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import data
from torch.nn import functional as F

from tests.basicsr_oracle import load_basicsr
from tgsr.degradations.base import Pipeline
from tgsr.degradations.params import DegradationParams
from tgsr.degradations.presets import PRESETS, RESIZE_MODES
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.degradations.second_order_pipeline import SecondOrderPipeline
from tgsr.degradations.second_order_rows import final_kernels, stage_kernels


def _photo(num: int, size: int = 128) -> torch.Tensor:
    image = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 255
    return torch.stack([image[:, 30 * i : 30 * i + size, 80 : 80 + size] for i in range(num)])


def _draw(num: int, seed: int = 0, **arguments: object) -> tuple[Pipeline, DegradationParams]:
    space = SecondOrderSpace(**arguments)
    return space.pipeline, space.draw(np.random.default_rng(seed).random((num, space.num_uniforms)))


def _levels(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b).abs() * 255).round()


def _assert_equal_up_to_ties(a: torch.Tensor, b: torch.Tensor) -> None:
    """Float noise of 1e-7 (a larger canvas, another Fourier length) moves what lies on a rounding tie."""
    assert (_levels(a, b) > 0).float().mean() < 2e-3
    assert (_levels(a, b) > 1).float().mean() < 1e-3


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_batch_equals_loop_and_arguments_stay(backend: str) -> None:
    pipeline, params = _draw(8)
    gt = _photo(8)
    before, columns = gt.clone(), {k: v.copy() for k, v in params.items()}
    batch = pipeline.apply(gt, params, backend=backend)
    loop = torch.cat([pipeline.apply(gt[i : i + 1], params.take([i]), backend=backend) for i in range(8)])
    if backend == "cpu":
        assert torch.equal(batch, loop)
    else:
        _assert_equal_up_to_ties(batch, loop)
    assert torch.equal(batch, pipeline.apply(gt, params, backend=backend))
    assert torch.equal(gt, before)
    assert all(np.array_equal(params[k], v) for k, v in columns.items())
    assert batch.shape == (8, 3, 32, 32)
    assert batch.min() >= 0
    assert batch.max() <= 1
    assert torch.allclose(batch * 255, (batch * 255).round(), atol=1e-4)


def test_order_of_the_batch_does_not_matter() -> None:
    pipeline, params = _draw(6, seed=1)
    gt, order = _photo(6), [3, 1, 5, 0, 2, 4]
    for backend in ("cpu", "torch"):
        straight = pipeline.apply(gt, params, backend=backend)
        mixed = pipeline.apply(gt[order], params.take(order), backend=backend)
        _assert_equal_up_to_ties(mixed, straight[order])


@pytest.mark.parametrize("preset", ["x4plus", "x2plus", "cdr_severe", "first_order", "first_order_mild", "none"])
def test_back_ends_agree_to_one_level(preset: str) -> None:
    pipeline, params = _draw(10, seed=2, preset=preset)
    gt = _photo(10)
    cpu, batched = (pipeline.apply(gt, params, backend=b) for b in ("cpu", "torch"))
    # float noise of 1e-6 flips a DCT coefficient on a rounding tie now and then, which moves its block by more
    assert (_levels(cpu, batched) > 1).float().mean() < 3e-3
    # means of 4x4 pixels of 8 bits are often exactly half-way between two levels
    assert (_levels(cpu, batched) == 0).float().mean() > (0.97 if preset == "none" else 0.995)


def test_every_preset_and_odd_sizes() -> None:
    for preset in PRESETS:
        pipeline, params = _draw(2, seed=3, preset=preset)
        gt = _photo(2)[:, :, :101, :119]
        for backend in ("cpu", "torch"):
            out = pipeline.apply(gt, params, backend=backend)
            assert out.shape == (2, 3, 101 // pipeline.scale, 119 // pipeline.scale)
            assert out.isfinite().all()


def test_mixed_numbers_of_stages_in_one_batch() -> None:
    pipeline, two = _draw(3, seed=4)
    _, one = _draw(3, seed=5, preset="first_order")
    params = DegradationParams.cat([two, one])
    gt = _photo(6)
    for backend in ("cpu", "torch"):
        both = pipeline.apply(gt, params, backend=backend)
        parts = [pipeline.apply(g, p, backend=backend) for g, p in ((gt[:3], two), (gt[3:], one))]
        _assert_equal_up_to_ties(both, torch.cat(parts))


def test_none_is_the_mean_of_pixels() -> None:
    pipeline, params = _draw(2, preset="none")
    gt = _photo(2)
    expected = (F.avg_pool2d(gt, 4) * 255).round() / 255
    for backend in ("cpu", "torch"):
        assert _levels(pipeline.apply(gt, params, backend=backend), expected).max() <= 1


def test_noise_seed_alone_changes_the_noise() -> None:
    pipeline, params = _draw(4, seed=6)
    gt = _photo(4)
    other = pipeline.apply(gt, params.replace(noise_seed=params["noise_seed"] + 1))
    assert (_levels(pipeline.apply(gt, params), other) > 0).any(dim=(1, 2, 3)).all()
    assert torch.equal(other, pipeline.apply(gt, params.replace(noise_seed=params["noise_seed"] + 1)))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_generator_decides_the_noise_in_its_mode(backend: str) -> None:
    pipeline, params = _draw(4, seed=7)
    gt = _photo(4)
    a, b, c = (
        pipeline.apply(gt, params, torch.Generator().manual_seed(seed), backend=backend) for seed in (1, 1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_json_replay_gives_the_same_image() -> None:
    pipeline, params = _draw(3, seed=8)
    gt = _photo(3)
    replayed = DegradationParams.from_json(params.to_json())
    assert torch.equal(pipeline.apply(gt, replayed), pipeline.apply(gt, params))


def test_codec_option_is_another_pipeline() -> None:
    space = SecondOrderSpace(jpeg="codec")
    assert space.pipeline.to_json() == {"type": "SecondOrder", "scale": 4, "jpeg": "codec"}
    params = space.draw(np.random.default_rng(9).random((4, space.num_uniforms)))
    gt = _photo(4)
    codec = [space.pipeline.apply(gt, params, backend=b) for b in ("cpu", "torch")]
    assert (_levels(*codec) <= 1).float().mean() > 0.97
    exact = SecondOrderPipeline(scale=4).apply(gt, params)
    assert not torch.equal(codec[0], exact)
    assert (codec[0] - exact).abs().mean() < 0.03


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_sequence_is_real_esrgans(seed: int) -> None:
    """Without noise, the pipeline is the published order of basicsr's own operators."""
    filter_2d = load_basicsr("basicsr.utils.img_process_util").filter2D
    jpeger = load_basicsr("basicsr.utils.diffjpeg").DiffJPEG(differentiable=False)
    pipeline, params = _draw(5, seed=seed, noise_prob=0.0, noise_prob2=0.0)
    gt = _photo(5)
    kernels = [torch.from_numpy(k) for k in (stage_kernels(params, 1), stage_kernels(params, 2), final_kernels(params))]

    def jpeg(x: torch.Tensor, quality: float) -> torch.Tensor:
        return jpeger(x.clamp(0, 1), quality=torch.tensor([quality])).contiguous().detach()

    for i in range(5):
        row = params.row(i)
        modes = [RESIZE_MODES[row[k]] for k in ("resize1_mode", "resize2_mode", "final_mode")]
        x = filter_2d(gt[i : i + 1], kernels[0][i : i + 1])
        x = F.interpolate(x, scale_factor=row["resize1_scale"], mode=modes[0])
        x = jpeg(x, row["jpeg1_quality"])
        if row["blur2"]:
            x = filter_2d(x, kernels[1][i : i + 1])
        side = int(128 / 4 * row["resize2_scale"])
        x = F.interpolate(x, size=(side, side), mode=modes[1])
        if row["final_order"] == 1:
            x = jpeg(x, row["jpeg2_quality"])
        x = filter_2d(F.interpolate(x, size=(32, 32), mode=modes[2]), kernels[2][i : i + 1])
        if row["final_order"] == 0:
            x = jpeg(x, row["jpeg2_quality"])
        theirs = (x * 255).round().clamp(0, 255) / 255
        for backend in ("cpu", "torch"):
            ours = pipeline.apply(gt[i : i + 1], params.take([i]), backend=backend)
            assert (_levels(ours, theirs) > 1).float().mean() < 0.03, (i, backend)
            assert (_levels(ours, theirs) == 0).float().mean() > 0.95


def test_sizes_of_batch_and_params_must_agree() -> None:
    pipeline, params = _draw(3)
    with pytest.raises(ValueError, match="2 images but 3 rows"):
        pipeline.apply(_photo(2), params)


def test_images_smaller_than_a_kernel() -> None:
    pipeline, params = _draw(12, seed=13)
    gt = _photo(12)[:, :, :12, :16]
    for backend in ("cpu", "torch"):
        out = pipeline.apply(gt, params, backend=backend)
        assert out.shape == (12, 3, 3, 4)
        assert out.isfinite().all()
