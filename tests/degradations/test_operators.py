"""Operators of both back ends against basicsr, torch and the laws they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from skimage import data
from torch.nn import functional as F

from tests.basicsr_oracle import load_basicsr
from tgsr.degradations import banded, ops_cpu, ops_torch
from tgsr.degradations.jpeg import jpeg_codec, jpeg_torch, quality_factor
from tgsr.degradations.kernels import density_kernels, pulse_kernels, sinc_kernels
from tgsr.degradations.noise import noise_generator, num_poisson_levels, poisson_counts
from tgsr.degradations.presets import RESIZE_MODES
from tgsr.degradations.taps import num_taps, resize_taps
from tgsr.degradations.usm import sharpen, sharpen_hwc


def _photo(height: int = 131, width: int = 118, num: int = 1) -> torch.Tensor:
    image = torch.from_numpy(data.astronaut().copy()).permute(2, 0, 1).float() / 255
    return torch.stack([image[:, 40 * i : 40 * i + height, 90 : 90 + width] for i in range(num)])


def _kernels() -> np.ndarray:
    one = np.ones(1)
    members = [(7, 0, 0.9), (21, 0, 2.9), (21, 0, 0.4), (21, 1, 2.5), (9, 3, 1.0), (17, 4, 2), (13, 5, 3)]
    density = [
        density_kernels(np.array([size]), np.array([kind]), one * sx, one * 0.7, one * 0.5, one * 0.8, one * 1.4)
        for size, kind, sx in members
    ]
    sinc = sinc_kernels(np.array([7, 15, 21]), np.array([1.1, 2.0, 3.0]))
    return np.concatenate([*density, sinc, pulse_kernels(1)]).astype(np.float32)


def _blur_on_canvas(canvas: torch.Tensor, kernels: np.ndarray, sizes: np.ndarray | None = None) -> torch.Tensor:
    sizes = np.array([canvas.shape[2:]] * len(canvas)) if sizes is None else sizes
    rows, columns = ops_torch.blur_window(sizes[:, 0], sizes[:, 1], kernels.shape[-1] // 2)
    return ops_torch.blur(canvas, *(torch.from_numpy(x) for x in (kernels, rows, columns)))


def test_blur_equals_basicsr() -> None:
    filter_2d = load_basicsr("basicsr.utils.img_process_util").filter2D
    kernels = _kernels()
    x = _photo().expand(len(kernels), -1, -1, -1).contiguous()
    theirs = filter_2d(x, torch.from_numpy(kernels))
    assert torch.allclose(_blur_on_canvas(x, kernels), theirs, atol=3e-6, rtol=0)
    for i, kernel in enumerate(kernels):
        ours = ops_cpu.blur(x[i].numpy(), kernel)
        np.testing.assert_allclose(ours, theirs[i].numpy(), atol=2e-6, rtol=0)


def test_blur_on_a_canvas_reads_the_sample_only() -> None:
    kernels, sizes = _kernels()[:4], np.array([(40, 61), (7, 3), (1, 1), (25, 30)])
    samples = [_photo(h, w) for h, w in sizes]
    canvas = torch.full((4, 3, 40, 61), 7.0)
    for i, sample in enumerate(samples):
        canvas[i, :, : sizes[i, 0], : sizes[i, 1]] = sample[0]
    out = _blur_on_canvas(canvas, kernels, sizes)
    for i, sample in enumerate(samples):
        alone = ops_cpu.blur(sample[0].numpy(), kernels[i])
        np.testing.assert_allclose(out[i, :, : sizes[i, 0], : sizes[i, 1]], alone, atol=3e-6, rtol=0)


def test_trim_keeps_the_mass_and_the_centre() -> None:
    kernels = _kernels()
    assert ops_cpu.trim(kernels[-1]).shape == (1, 1)
    assert ops_cpu.trim(kernels[0]).shape == (7, 7)
    small = ops_cpu.trim(kernels[2])
    assert len(small) < 21
    assert small.sum() == pytest.approx(1, abs=1e-6)
    assert small.argmax() == small.size // 2


def _axis(lengths: list[int], outs: list[int], modes: list[str], scale: float | None = None) -> torch.Tensor:
    codes = [RESIZE_MODES.index(m) for m in modes]
    steps = [1 / scale if scale else np.float32(n) / np.float32(m) for n, m in zip(lengths, outs, strict=True)]
    index, weights = resize_taps(
        *(torch.tensor(x) for x in (lengths, outs)),
        torch.tensor(steps, dtype=torch.float32),
        torch.tensor(codes),
        num_out=max(outs),
        taps=max(num_taps(*axis) for axis in zip(lengths, outs, codes, strict=True)),
    )
    return ops_torch.matrices(*ops_torch.distinct_taps(index, weights, max(lengths)), max(lengths))


def _resize_by_matrices(x: torch.Tensor, size: tuple[int, int], mode: str, scale: float | None = None) -> torch.Tensor:
    rows, columns = (_axis([n], [m], [mode], scale) for n, m in zip(x.shape[2:], size, strict=True))
    return ops_torch.resize(x, rows, columns)


def test_resize_matrices_of_many_axes_are_those_of_each() -> None:
    lengths, outs, modes = [9, 40, 1, 23, 40, 7], [31, 3, 5, 22, 40, 1], ["bicubic", "area", "bilinear"] * 2
    both = _axis(lengths, outs, modes)
    assert both.shape == (6, 40, 40)
    for i, (length, out, mode) in enumerate(zip(lengths, outs, modes, strict=True)):
        alone = torch.from_numpy(banded.dense(banded.resize_blocks(length, out, mode, None)))
        assert torch.allclose(both[i, :out, : alone.shape[1]], alone, atol=1e-7, rtol=0)
        assert torch.equal(both[i, out:], both[i, out - 1 : out].expand(40 - out, -1)), "the last one is repeated"
        assert not both[i, :, length:].any(), "nothing outside of the sample is read"
        assert torch.allclose(both[i].sum(1), torch.ones(40), atol=1e-6)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [0.15, 0.37, 0.5, 0.9931, 1.0, 1.2, 1.4999])
def test_resize_by_factor_equals_interpolate(mode: str, scale: float) -> None:
    x = _photo(301, 293)
    theirs = F.interpolate(x, scale_factor=scale, mode=mode)
    size = tuple(theirs.shape[2:])
    assert size == (int(301 * scale), int(293 * scale))
    np.testing.assert_allclose(ops_cpu.resize(x[0].numpy(), size, mode, scale=scale), theirs[0], atol=1e-5, rtol=0)
    assert torch.allclose(_resize_by_matrices(x, size, mode, scale), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(4, 7), (33, 29), (100, 100), (118, 131), (262, 200)])
def test_resize_to_size_equals_interpolate(mode: str, size: tuple[int, int]) -> None:
    x = _photo()
    theirs = F.interpolate(x, size=size, mode=mode)
    np.testing.assert_allclose(ops_cpu.resize(x[0].numpy(), size, mode), theirs[0], atol=1e-5, rtol=0)
    assert torch.allclose(_resize_by_matrices(x, size, mode), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(128, 96), (131, 118), (5, 17)])
def test_jpeg_equals_basicsr(shape: tuple[int, int]) -> None:
    diff_jpeg = load_basicsr("basicsr.utils.diffjpeg").DiffJPEG(differentiable=False)
    x = _photo(*shape, num=4)
    quality = torch.tensor([30.0, 49.7, 50.0, 94.6])
    theirs = diff_jpeg(x, quality=quality.clone()).detach()
    factor = torch.from_numpy(quality_factor(quality.numpy()).astype(np.float32))
    planes = np.stack([ops_cpu.jpeg(x[i].numpy(), float(quality[i])) for i in range(4)])
    for ours in (jpeg_torch(x, factor), torch.from_numpy(planes)):
        levels = (ours - theirs).abs() * 255
        # a coefficient on a rounding tie may fall either way and moves its own block
        assert (levels > 1e-3).float().mean() < 2e-3
        assert levels.median() < 1e-4


def test_jpeg_does_not_touch_its_arguments_and_zeros_stay_zero() -> None:
    x, factor = _photo(32, 32), torch.tensor([1.5])
    before = x.clone()
    jpeg_torch(x, factor)
    ops_cpu.jpeg(x[0].numpy(), 40.0)
    assert torch.equal(x, before)
    assert factor.item() == 1.5
    assert np.abs(ops_cpu.jpeg(np.zeros((3, 20, 20), np.float32), 50.0)).max() < 1e-6


def test_codec_is_a_codec() -> None:
    x = _photo(64, 64)[0].numpy()
    out = jpeg_codec(x, 80.9)
    assert np.array_equal(np.rint(out * 255) / np.float32(255), out)
    assert np.array_equal(out, jpeg_codec(x, 80.0))
    assert 20 * np.log10(1 / np.sqrt(np.mean((out - x) ** 2))) > 28
    red = np.zeros((3, 16, 16), np.float32)
    red[0] = 1
    assert jpeg_codec(red, 95)[0].mean() > 0.9


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_sigma(gray: bool) -> None:
    x = np.full((3, 200, 210), 0.5, dtype=np.float32)
    out = ops_cpu.add_gaussian(x, noise_generator(123456789012345, 1), sigma_255=12.0, gray=gray)
    assert (out - x).std() * 255 == pytest.approx(12.0, rel=0.02)
    assert np.allclose(out[0], out[1]) == gray
    standard = ((out[0] - x[0]) * 255 / 12).ravel()
    assert stats.kstest(standard, "norm").pvalue > 1e-3


@pytest.mark.parametrize("num_levels", [1, 4, 32, 256])
@pytest.mark.parametrize("level", [0, 1, 7, 90, 255])
def test_poisson_counts_follow_the_exact_law(num_levels: int, level: int) -> None:
    mean, num = level / 255 * num_levels, 200_000
    uniforms = np.random.default_rng(level + num_levels).integers(0, 2**32, num, dtype=np.uint32)
    counts = poisson_counts(uniforms, np.full(num, level, np.uint8), num_levels)
    if level == 0:
        assert not counts.any()
        return
    expected = stats.poisson.pmf(np.arange(counts.max() + 200), mean) * num
    observed = np.bincount(counts, minlength=len(expected)).astype(float)
    common = np.flatnonzero(expected > 10)
    low, high = common[0], common[-1] + 1
    merge = [np.array([v[:low].sum(), *v[low:high], v[high:].sum()]) for v in (observed, expected)]
    keep = merge[1] > 1
    merge = [v[keep] for v in merge]
    assert stats.chisquare(merge[0], merge[1] * merge[0].sum() / merge[1].sum()).pvalue > 1e-4


def test_poisson_counts_are_the_quantile_function() -> None:
    uniforms = np.concatenate([np.random.default_rng(0).integers(0, 2**32, 20_000), [0, 2**32 - 1]]).astype(np.uint32)
    levels = np.random.default_rng(1).integers(1, 256, len(uniforms)).astype(np.uint8)
    for num_levels in (2, 64, 256):
        counts = poisson_counts(uniforms, levels, num_levels)
        exact = stats.poisson.ppf((uniforms[:-2] + 0.5) / 2**32, levels[:-2] / 255 * num_levels)
        assert np.array_equal(counts[:-2], exact)
        assert counts[-2] <= exact.max()
        x = torch.from_numpy(levels.astype(np.float32) / 255)
        log_photons = torch.tensor([int(np.log2(num_levels))]).expand(len(levels))
        wide = torch.from_numpy(uniforms.astype(np.int64))
        device_form = ops_torch.invert((x * 255).round().long(), log_photons, wide)
        assert np.array_equal(device_form.numpy(), counts)


def test_number_of_photons_is_basicsrs() -> None:
    for distinct, photons in [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (255, 256), (256, 256)]:
        levels = np.tile(np.arange(distinct, dtype=np.uint8), (3, 4, 1))
        assert num_poisson_levels(levels) == photons == 2 ** np.ceil(np.log2(distinct))
        x = torch.from_numpy(levels.astype(np.float32) / 255)[None]
        _, log_photons = ops_torch.poisson_levels(x, torch.zeros(1, 1, 1, 1, dtype=torch.bool))
        assert 2 ** log_photons.item() == photons


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_equals_basicsr_at_equal_counts(gray: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = load_basicsr("basicsr.data.degradations")
    x = _photo(60, 70) * 1.1 - 0.05
    rate: list[torch.Tensor] = []
    counts = torch.randint(0, 250, (1, 3, 60, 70), generator=torch.Generator().manual_seed(0)).float()
    counts = counts[:, :1] if gray else counts

    def poisson(mean: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        # theirs draws both kinds and chooses; ours draws three channels and keeps the first where gray
        if (mean.shape[1] == 1) == gray or len(rate):
            rate.append(mean)
        return counts.expand_as(mean) if mean.shape[1] % counts.shape[1] == 0 else torch.zeros_like(mean)

    monkeypatch.setattr(torch, "poisson", poisson)
    theirs = oracle.add_poisson_noise_pt(x, scale=torch.tensor([0.7]), gray_noise=torch.tensor([float(gray)]))
    ours = (x + ops_torch.poisson_noise(x, torch.tensor([0.7]), torch.tensor([gray]))).clamp(0, 1)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    assert torch.allclose(rate[-1][:, : counts.shape[1]], rate[0], atol=1e-3)


@pytest.mark.parametrize("gray", [False, True])
def test_poisson_noise_is_the_same_in_both_forms_and_unbiased(gray: bool) -> None:
    x = _photo(150, 160)
    out = ops_cpu.add_poisson(x[0].numpy(), noise_generator(5, 2), scale=1.0, gray=gray)
    drawn = noise_generator(5, 2).integers(0, 2**32, (1 if gray else 3, 150, 160), dtype=np.uint32).astype(np.int64)
    uniforms = torch.from_numpy(drawn).expand(1, 3, 150, 160)
    noise = ops_torch.poisson_noise(x, torch.tensor([1.0]), torch.tensor([gray]), uniforms=uniforms)
    other = (x + noise).clamp(0, 1)[0].numpy()
    assert (np.abs(other - out) > 1e-6).mean() < 1e-3
    middle = (x[0].numpy() > 0.25) & (x[0].numpy() < 0.7)
    noise = (out - x[0].numpy())[middle]
    assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(noise.size / (3 if gray else 1))
    if not gray:
        assert np.var(noise) == pytest.approx(x[0].numpy()[middle].mean() / 256, rel=0.05)


def test_usm_equals_basicsr() -> None:
    oracle = load_basicsr("basicsr.utils.img_process_util").USMSharp()
    x = _photo(90, 110, num=2)
    theirs = oracle(x)
    ours = sharpen(x)
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - x).abs().max() > 0.05
    assert torch.equal(sharpen(x[0]), ours[0])
    np.testing.assert_allclose(sharpen_hwc(x[0].permute(1, 2, 0).numpy()), ours[0].permute(1, 2, 0), atol=1e-6)


def test_usm_on_a_device_equals_the_banded_form() -> None:
    from tgsr.degradations import usm

    x = _photo(70, 80)
    blurred = usm.banded.apply(x[0].numpy(), *(usm.banded.gaussian_blocks(n, 51) for n in (70, 80)))
    np.testing.assert_allclose(usm._blur(x, 51)[0].numpy(), blurred, atol=1e-6)
    flat = torch.full((1, 3, 60, 60), 0.3)
    assert torch.allclose(sharpen(flat), flat, atol=1e-6)


def test_noise_streams_differ_by_seed_and_stage() -> None:
    draws = [tuple(noise_generator(s, k).integers(0, 2**32, 4)) for s in (1, 2, 1 + 2**32) for k in (1, 2)]
    assert len(set(draws)) == 6


def test_freed_memory_is_kept_where_glibc_allows_it() -> None:
    import platform

    from tgsr.utils.memory import keep_freed_memory

    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
    assert keep_freed_memory() == keep_freed_memory()


def test_usm_of_an_image_smaller_than_its_filter() -> None:
    from tgsr.degradations import usm

    x = _photo(20, 9)
    whole = usm._blur(x, 51)
    banded = usm.banded.apply(x[0].numpy(), *(usm.banded.gaussian_blocks(n, 51) for n in (20, 9)))
    np.testing.assert_allclose(banded, whole[0].numpy(), atol=1e-6)
    assert sharpen(x).shape == x.shape


def test_blas_threads_are_one_inside_and_restored_outside() -> None:
    from threadpoolctl import threadpool_info

    from tgsr.utils.threads import one_blas_thread

    def counts() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = counts()
    with one_blas_thread():
        assert set(counts()) <= {1}
        with one_blas_thread():
            pass
        assert set(counts()) <= {1}
    assert counts() == before
