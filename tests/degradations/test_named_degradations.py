"""The named degradations: contracts of the room, oracles of libraries, values that can be worked out by hand."""

import inspect
import re

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from skimage.restoration import richardson_lucy

from tgsr.degradations.base import PointSpace, space_from_json
from tgsr.degradations.named import (
    GRIDS_DEGRADATIONS,
    NAMED,
    NamedMixSpace,
    NamedPipeline,
    NamedSpace,
    named_params_from_json,
    named_params_to_json,
)
from tgsr.degradations.named.defocus import disk_kernel
from tgsr.degradations.named.filters import resize_matrix
from tgsr.degradations.named.motion_blur import motion_kernel
from tgsr.degradations.named.ringing import circular_lowpass
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import ConfigError
from tgsr.utils.rng import generator

ALL = sorted(NAMED.names())
PIPELINE = NamedPipeline()
EXACT_BETWEEN_BACKENDS = {"gaussian_noise", "poisson", "salt_pepper", "inpainting", "banding"}


@pytest.fixture(scope="module")
def photo():
    return data.astronaut()[:160, :144].astype(np.float32) / 255


def batch_of(photo, num):
    crops = [photo[7 * i : 7 * i + 64, 5 * i : 5 * i + 56] for i in range(num)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def draw(space, num, seed=0):
    return space.draw(generator(seed, "test").random((num, space.num_uniforms)))


def fixed(name, photo, **settings):
    """The degraded photo of one draw in which every range is a point, before rounding: (H, W, 3)."""
    space = NamedSpace(degradation=name, settings={k: (v, v) for k, v in settings.items()})
    gt = torch.from_numpy(photo).permute(2, 0, 1)[None]
    return PIPELINE.apply(gt, draw(space, 1))[0].permute(1, 2, 0).numpy()


def rounded(image):
    return np.round(np.clip(image, 0, 1) * 255) / 255


def assert_same_8bit(a, b, *, share=0.001):
    """Equal up to one level in a few pixels: the rounding of sums in another order."""
    levels = np.abs(np.asarray(a) - np.asarray(b)) * 255
    assert levels.max() < 1.01
    assert (levels > 0.5).mean() <= share


def test_eleven_of_grids_and_three_more():
    assert len(GRIDS_DEGRADATIONS) == 11
    assert set(ALL) == {*GRIDS_DEGRADATIONS, "haze", "rain", "banding"}


@pytest.mark.parametrize("name", ALL)
def test_contract(name, photo):
    space = NamedSpace(degradation=name)
    params = draw(space, 5)
    gt = batch_of(photo, 5)
    before = gt.clone()
    out = PIPELINE.apply(gt, params)
    assert torch.equal(gt, before)
    assert out.shape == gt.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert torch.equal((out * 255).round() / 255, out)
    assert space.contains(params).all()
    assert not torch.equal(out, gt)
    again = DegradationParams.from_json(params.to_json())
    assert torch.equal(PIPELINE.apply(gt, again), out)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("name", ALL)
def test_batch_equals_loop(name, backend, photo):
    params = draw(NamedSpace(degradation=name), 4, seed=3)
    gt = batch_of(photo, 4)
    whole = PIPELINE.apply(gt, params, backend=backend)
    alone = torch.cat([PIPELINE.apply(gt[i : i + 1], params.take([i]), backend=backend) for i in range(4)])
    if backend == "cpu" or name in EXACT_BETWEEN_BACKENDS:
        assert torch.equal(whole, alone)
    else:
        assert_same_8bit(whole, alone, share=0.01)


@pytest.mark.parametrize("name", ALL)
def test_backends_agree(name, photo):
    params = draw(NamedSpace(degradation=name), 6, seed=5)
    gt = batch_of(photo, 6)
    cpu, device = (PIPELINE.apply(gt, params, backend=b) for b in ("cpu", "torch"))
    if name in EXACT_BETWEEN_BACKENDS:
        assert torch.equal(cpu, device)
    elif name == "jpeg":
        levels = (cpu - device).abs() * 255
        assert levels.mean() < 0.4
        assert (levels > 2).float().mean() < 0.04  # where a coefficient lies between two steps
    else:
        assert_same_8bit(cpu, device, share=0.01)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_mixed_batch(backend, photo):
    rows = [draw(NamedSpace(degradation=n), 1, seed=i).row(0) for i, n in enumerate(ALL)]
    mixed = DegradationParams.from_rows(rows)
    gt = batch_of(photo, len(ALL))
    out = PIPELINE.apply(gt, mixed, backend=backend)
    for i, row in enumerate(rows):
        alone = PIPELINE.apply(gt[i : i + 1], DegradationParams.from_rows([row]), backend=backend)
        assert torch.equal(out[i : i + 1], alone), ALL[i]


def test_json_with_names(photo):
    mixed = draw(NamedMixSpace(degradations=ALL), 80)
    rows = named_params_to_json(mixed)
    assert {r["degradation"] for r in rows} == set(ALL)
    blur = next(r for r in rows if r["degradation"] == "gaussian_blur")
    assert set(blur) == {"degradation", "gaussian_blur_sigma_px", "gaussian_blur_window_px", "noise_seed"}
    gt = batch_of(photo, 1).expand(80, -1, -1, -1)
    assert torch.equal(PIPELINE.apply(gt, named_params_from_json(rows)), PIPELINE.apply(gt, mixed))


def test_generator_draws_the_noise(photo):
    gt, params = batch_of(photo, 3), draw(NamedSpace(degradation="gaussian_noise"), 3)
    outs = [
        PIPELINE.apply(gt, params, generator=torch.Generator().manual_seed(s), backend="torch") for s in (1, 1, 2)
    ]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_mix_is_uniform_and_splits_into_its_members():
    space = NamedMixSpace()
    params = draw(space, 4400)
    shares = [m.contains(params).mean() for m in space.members]
    assert sum(shares) == 1
    assert max(abs(s - 1 / 11) for s in shares) < 0.02
    again = space_from_json(space.to_json())
    assert again.to_json() == space.to_json()
    uniforms = np.full((1, space.num_uniforms), 0.3)
    assert again.draw(uniforms).row(0) == space.draw(uniforms).row(0)


def test_space_ranges_and_json():
    space = NamedSpace(degradation="jpeg", settings={"quality": [10, 12]})
    params = space.draw(np.linspace(0, 0.999, 300)[:, None].repeat(2, 1))
    assert np.bincount(params["jpeg_quality"]).tolist()[10:] == [100, 100, 100]
    assert not NamedSpace(degradation="rl").contains(params).any()
    assert not NamedSpace(degradation="jpeg", settings={"quality": [13, 40]}).contains(params).any()
    assert space_from_json(space.to_json()).to_json() == space.to_json()
    odd = NamedSpace(degradation="motion_blur", settings={"length_px": [9, 21]})
    assert set(odd.draw(generator(0, "t").random((200, 3)))["motion_length_px"]) == set(range(9, 22, 2))


def test_point_task_repeats_the_parameters():
    row = draw(NamedSpace(degradation="sr"), 1).row(0)
    point = PointSpace(pipeline=PIPELINE.to_json(), params=row)
    drawn = point.draw(np.array([[0.2], [0.9]]))
    assert (drawn["sr_factor"] == row["sr_factor"]).all()
    assert NamedSpace(degradation="sr").contains(drawn).all()


def test_errors_name_the_remedy():
    with pytest.raises(ConfigError, match="gaussian_blur"):
        NamedSpace(degradation="gausian_blur")
    with pytest.raises(ConfigError, match="quality"):
        NamedSpace(degradation="jpeg", settings={"quality": [40, 10]})
    with pytest.raises(ConfigError, match="sigma"):
        NamedSpace(degradation="gaussian_blur", settings={"sigma": [1, 2]})
    with pytest.raises(ConfigError, match="scale"):
        NamedPipeline(scale=4)
    with pytest.raises(ConfigError, match="code 5"):
        PIPELINE.apply(torch.rand(1, 3, 8, 8), DegradationParams.from_rows([{"named_degradation": 5, "noise_seed": 0}]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degradations": []}, "degradations is empty; name at least one, or leave it out for the eleven of GRIDS"),
        ({"degradations": ["jpg", "haze"], "settings": {"jpeg": {}}}, "no named degradation 'jpg'; did you mean"),
        ({"degradations": ["jpeg", "haze", "jpeg"]}, "degradations names jpeg twice; name each degradation once"),
        ({"settings": {"jpg": {}}}, "settings for 'jpg', which is not among the degradations; did you mean 'jpeg'?"),
        ({"settings": {"jpeg": {"qualty": [5, 9]}}}, "jpeg takes no 'qualty'; did you mean 'quality'?"),
    ],
)
def test_a_mixture_says_which_name_is_wrong(arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        NamedMixSpace(**arguments)


@pytest.mark.parametrize("name", ["ringing", "defocus", "motion_blur", "gaussian_blur"])
def test_images_smaller_than_a_kernel(name):
    gt, params = torch.rand(3, 3, 5, 9), draw(NamedSpace(degradation=name), 3)
    host, device = (PIPELINE.apply(gt, params, backend=b) for b in ("cpu", "torch"))
    assert ((host - device).abs() * 255).max() < 1.01
    assert ((host - device).abs() * 255).median() < 1e-3


def test_rl_is_skimage_on_the_ramp_padded_image(photo):
    for num_iters in (1, 2, 5):
        padded = [np.pad(photo[..., c].astype(np.float64), 7, mode="linear_ramp") for c in range(3)]
        expected = np.stack(
            [richardson_lucy(p, np.full((5, 5), 1 / 25), num_iter=num_iters)[7:-7, 7:-7] for p in padded], axis=-1
        )
        assert_same_8bit(fixed("rl", photo, num_iters=num_iters), rounded(expected), share=0.005)


def test_first_rl_iteration_is_a_box_blur(photo):
    box = ndimage.uniform_filter(photo.astype(np.float64), size=(5, 5, 1), mode="nearest")
    assert_same_8bit(fixed("rl", photo)[8:-8, 8:-8], rounded(box)[8:-8, 8:-8])


def test_gaussian_blur_is_scipy(photo):
    expected = ndimage.gaussian_filter(photo.astype(np.float64), (2.5, 2.5, 0), mode="mirror", radius=(7, 7, 0))
    assert_same_8bit(fixed("gaussian_blur", photo, sigma_px=2.5), rounded(expected))


def test_kernels():
    assert disk_kernel(2).shape == (5, 5)
    assert np.count_nonzero(disk_kernel(2)) == 13
    assert np.count_nonzero(disk_kernel(2.5)) == 21
    ringing = circular_lowpass(15, 1.2)
    assert ringing[7, 7] == pytest.approx(0.10003384, abs=1e-8)
    assert ringing.min() == pytest.approx(-0.01321924, abs=1e-8)
    flat = motion_kernel(15, 0)
    assert flat[7].tolist() == pytest.approx([1 / 15] * 15)
    assert np.allclose(motion_kernel(15, 90), flat.T)
    for angle in (20, 45, 160):
        line = np.zeros((15, 15), np.float32)
        line[7] = 1
        turned = cv2.warpAffine(line, cv2.getRotationMatrix2D((7, 7), angle, 1), (15, 15))
        assert np.abs(motion_kernel(15, angle) - turned / turned.sum()).max() < 0.005


@pytest.mark.parametrize(("mode", "flag"), [("bilinear", 1), ("bicubic", 2), ("area", 3)])
def test_resize_matrix_is_opencv(mode, flag, photo):
    row = photo[:1, :97].copy()
    for target in (13, 40, 96, 97, 120, 250):
        expected = cv2.resize(row, (target, 1), interpolation=flag)
        ours = np.einsum("ts,hsc->htc", resize_matrix(97, target, mode), row)
        assert np.abs(ours - expected).max() < 2e-5


def test_sr_at_factor_one_is_the_identity(photo):
    assert np.array_equal(fixed("sr", photo, factor=1.0), photo)


def test_poisson_and_gaussian_noise_have_their_variance():
    grey = torch.full((8, 3, 64, 64), 0.4)
    for name, settings, variance in (
        ("poisson", {"photons": [100, 100]}, 0.4 / 100),
        ("gaussian_noise", {"sigma_255": [20, 20]}, (20 / 255) ** 2),
    ):
        out = PIPELINE.apply(grey, draw(NamedSpace(degradation=name, settings=settings), 8))
        assert (out - 0.4).var().item() == pytest.approx(variance, rel=0.05)
        assert out.mean().item() == pytest.approx(0.4, abs=0.002)
        assert abs(np.corrcoef(out[:, 0].flatten(), out[:, 1].flatten())[0, 1]) < 0.03


def test_salt_pepper_density_and_psnr():
    grey = torch.full((8, 3, 64, 64), 0.5)
    out = PIPELINE.apply(grey, draw(NamedSpace(degradation="salt_pepper"), 8))
    hit = (out - 0.5).abs() > 0.1
    assert torch.equal(hit[:, 0], hit[:, 1])
    assert hit.float().mean().item() == pytest.approx(0.05, abs=0.004)
    assert (out == 1).sum().item() == pytest.approx(hit.sum().item() / 2, rel=0.08)
    psnr = -10 * np.log10(((out - 0.5) ** 2).mean().item())
    assert psnr == pytest.approx(-10 * np.log10(0.05 * 0.25), abs=0.3)


def test_inpainting_strokes(photo):
    for seed in range(4):
        space = NamedSpace(degradation="inpainting")
        params = draw(space, 1, seed=seed)
        gt = torch.from_numpy(photo).permute(2, 0, 1)[None]
        out = PIPELINE.apply(gt, params)
        hit = (out != gt).any(1)
        assert torch.isin(out[hit[:, None].expand_as(out)], torch.tensor([0.0, 1.0])).all()
        assert 0.05 < hit.float().mean() < 0.75
        assert len(set(out[hit[:, None].expand_as(out)].tolist())) == 1


def test_extension_banding_has_few_levels_and_haze_brightens(photo):
    assert len(np.unique(fixed("banding", photo, num_levels=6))) == 6
    dark = photo * 0.2
    assert fixed("haze", dark).mean() > dark.mean() + 0.1
    assert (fixed("rain", photo) >= rounded(photo)).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_form_on_cuda(photo):
    gt = batch_of(photo, 8).repeat(7, 1, 1, 1)
    params = draw(NamedMixSpace(degradations=ALL), 56)
    out = PIPELINE.apply(gt.cuda(), params, generator=torch.Generator("cuda").manual_seed(0))
    assert out.is_cuda
    assert torch.isfinite(out).all()
    names = [r["degradation"] for r in named_params_to_json(params)]
    fixed_rows = [i for i, n in enumerate(names) if n not in {"gaussian_noise", "poisson", "salt_pepper", "jpeg"}]
    host = PIPELINE.apply(gt[fixed_rows], params.take(fixed_rows), backend="cpu")
    assert ((out[fixed_rows].cpu() - host).abs() * 255).max() < 1.01


@pytest.mark.parametrize("name", NAMED.names())
def test_every_allowed_extreme_gives_finite_images_and_the_rest_is_refused(name):
    """Both ends of what each parameter may be, and values beyond them, of every degradation that is registered."""
    image = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    ends = {"sigma_px": (0.01, 100), "photons": (0.01, 1e6), "cutoff": (0.01, 3.15), "factor": (0.05, 4)}
    ends |= {"density": (0, 1), "salt": (0, 1), "strength": (0, 1), "airlight": (0, 1), "thickness": (0, 100)}
    ends |= {"sigma_255": (0, 255), "radius_px": (0, 64), "num_levels": (2, 256), "quality": (1, 100)}
    settings = set(inspect.signature(NAMED.get(name)).parameters)
    for key in settings & set(ends):
        for value in ends[key]:
            space = NamedSpace(degradation=name, settings={key: [value, value]})
            out = space.pipeline.apply(image, space.draw(np.full((1, space.num_uniforms), 0.5)))
            assert torch.isfinite(out).all(), (key, value)
        for wrong in ([-1, -1], [1e9, 1e9], [float("nan"), 1]):
            with pytest.raises(ConfigError, match=key):
                NamedSpace(degradation=name, settings={key: wrong})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gaussian_blur", {"sigma_px": [0, 0]}),
        ("poisson", {"photons": [0, 0]}),
        ("rain", {"density": [0.5, 2]}),
        ("salt_pepper", {"density": [0.5, 2]}),
        ("gaussian_blur", {"window_px": [4, 9]}),
    ],
)
def test_parameters_without_a_meaning_are_one_line(name, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        NamedSpace(degradation=name, settings=settings)
