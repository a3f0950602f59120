"""PSNR and SSIM: hand values, basicsr as the oracle, edges."""

import math

import numpy as np
import pytest
import torch

from tests.basicsr_oracle import load_basicsr
from tgsr.metrics.psnr_ssim import PSNR, SSIM, _ssim_opencv, _ssim_torch
from tgsr.utils.errors import DataError


def pair(height=61, width=83, noise=0.1, seed=0):
    """A structured image and a distorted one; some values lie outside [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    gt = np.stack([0.5 + 0.4 * np.sin(x / (4 + c)) * np.cos(y / (6 - c)) for c in range(3)])
    restored = gt + rng.normal(0, noise, gt.shape)
    return torch.from_numpy(restored).float(), torch.from_numpy(gt).float()


def to_bgr8(image):
    return (image.clamp(0, 1).numpy().transpose(1, 2, 0)[..., ::-1] * 255.0).round().astype(np.uint8)


@pytest.mark.parametrize("color", ["y", "rgb"])
@pytest.mark.parametrize("crop_border", [0, 4])
@pytest.mark.parametrize("noise", [0.003, 0.1])
def test_as_basicsr(color, crop_border, noise):
    theirs = load_basicsr("basicsr.metrics.psnr_ssim")
    restored, gt = pair(height=161, noise=noise)
    a, b = to_bgr8(restored), to_bgr8(gt)
    psnr = theirs.calculate_psnr(a, b, crop_border, test_y_channel=color == "y")
    ssim = theirs.calculate_ssim(a, b, crop_border, test_y_channel=color == "y")
    assert PSNR(crop_border=crop_border, color=color)(restored, gt) == pytest.approx(psnr, abs=1e-5)
    assert SSIM(crop_border=crop_border, color=color)(restored, gt) == pytest.approx(ssim, abs=1e-6)


def test_psnr_by_hand():
    gt = torch.zeros(3, 8, 8)
    assert PSNR(color="rgb")(gt + 10 / 255, gt) == pytest.approx(20 * math.log10(25.5))
    assert PSNR()(gt + 10 / 255, gt) == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)), abs=1e-5)
    green = gt.clone()
    green[1] = 1
    assert PSNR()(green, gt) == pytest.approx(20 * math.log10(255 / 128.553), abs=1e-5)


def test_values_below_half_a_level_do_not_count():
    _, gt = pair()
    gt = (gt * 255).round() / 255
    assert PSNR()(gt + 0.4 / 255, gt) == math.inf
    assert SSIM()(gt + 0.4 / 255, gt) == pytest.approx(1.0)


def test_crop_leaves_the_border_out():
    _, gt = pair()
    restored = gt.clone()
    restored[:, :4] = restored[:, -4:] = restored[:, :, :4] = restored[:, :, -4:] = 0
    assert PSNR(crop_border=4)(restored, gt) == math.inf
    assert PSNR(crop_border=3)(restored, gt) < 40


def test_arguments_are_left_as_they_are():
    restored, gt = pair()
    copies = restored.clone(), gt.clone()
    PSNR()(restored, gt)
    SSIM()(restored, gt)
    assert torch.equal(restored, copies[0])
    assert torch.equal(gt, copies[1])


def test_device_form_of_ssim_equals_the_host_form():
    x, y = (torch.randint(0, 256, (2, 40, 50), generator=torch.Generator().manual_seed(i)).double() for i in (0, 1))
    y = 0.7 * x + 0.3 * y
    window = SSIM()._window
    host = np.mean([_ssim_opencv(a.numpy(), b.numpy(), window) for a, b in zip(x, y, strict=True)])
    assert _ssim_torch(x, y, torch.from_numpy(window)).item() == pytest.approx(host, abs=1e-12)


@pytest.mark.parametrize("metric", [PSNR(), SSIM()])
def test_bad_images_are_refused(metric):
    _, gt = pair()
    with pytest.raises(DataError, match="differ in size: 83x60 and 83x61"):
        metric(gt[:, :-1], gt)
    with pytest.raises(DataError, match="uint8"):
        metric((gt * 255).byte(), (gt * 255).byte())
    with pytest.raises(DataError, match="3, H, W"):
        metric(gt[:2], gt[:2])


def test_images_of_one_channel_are_luma_as_in_basicsr():
    """BasicSR measures what networks of one channel restore as it is, rounded to 8 bits."""
    restored, gt = (image[:1].clamp(0, 1) for image in pair())
    difference = (restored * 255).round() - (gt * 255).round()
    expected = 10 * np.log10(255**2 / difference.double().square().mean().item())
    assert PSNR(color="y")(restored, gt) == PSNR(color="rgb")(restored, gt) == pytest.approx(expected)
    repeated = SSIM(color="rgb")(restored.repeat(3, 1, 1), gt.repeat(3, 1, 1))
    assert SSIM(color="y")(restored, gt) == pytest.approx(repeated)


def test_small_images_are_refused():
    image = torch.rand(3, 18, 30)
    SSIM(crop_border=3)(image, image)
    with pytest.raises(DataError, match="too small"):
        SSIM(crop_border=4)(image, image)
    with pytest.raises(DataError, match="too small"):
        PSNR(crop_border=9)(image, image)


def test_protocol():
    assert PSNR(crop_border=4).protocol == "Y (BT.601), crop 4, 8-bit"
    assert SSIM(color="rgb").protocol == "RGB, crop 0, 8-bit"
