"""NIQE: basicsr as the oracle, its parts by their definitions."""

import math
import sys

import numpy as np
import pytest
import scipy.ndimage
import torch

from tests.basicsr_oracle import load_basicsr
from tgsr.metrics.niqe import NIQE, _rolled, block_moments, fit_aggd, half_size, rounded_luma
from tgsr.utils.errors import DataError


def photograph(name="astronaut", rows=slice(0, 200), columns=slice(0, 300)):
    data = pytest.importorskip("skimage.data")
    image = np.asarray(getattr(data, name)())[rows, columns, :3]
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255


def basicsr_niqe(image, crop_border=0):
    sys.modules.setdefault("scipy.ndimage.filters", scipy.ndimage)  # removed from SciPy
    bgr = (image.numpy().transpose(1, 2, 0)[..., ::-1] * 255.0).round().astype(np.uint8)
    return load_basicsr("basicsr.metrics.niqe").calculate_niqe(bgr, crop_border)


@pytest.mark.parametrize("crop_border", [0, 4])
@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_as_basicsr(name, crop_border):
    image = photograph(name)
    assert NIQE(crop_border=crop_border)(image) == pytest.approx(basicsr_niqe(image, crop_border), abs=1e-6)


def test_as_basicsr_with_flat_regions():
    """Blocks without negative or positive values, where rounding decides."""
    image = photograph()
    image[:, :100, :100] = 0.5
    image[:, :, 200:] = (image[:, :, 200:] > 0.4).float()
    ours = NIQE()(image)
    assert ours == pytest.approx(basicsr_niqe(image), abs=1e-6)
    assert math.isfinite(ours)


def test_noise_is_worse():
    image = photograph()
    noisy = (image + 0.15 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert NIQE()(noisy) > NIQE()(image) + 1


def test_luma_as_basicsr_for_all_ties():
    """All values of two channels, so that exact halves occur."""
    r, g = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    image = torch.stack([r, g, torch.full_like(r, 77)])
    to_y = load_basicsr("basicsr.metrics.metric_util").to_y_channel
    theirs = np.squeeze(to_y(image.numpy().transpose(1, 2, 0)[..., ::-1].astype(np.float32))).round()
    assert np.array_equal(rounded_luma(image), theirs)


def test_half_size_as_basicsr():
    image = np.random.default_rng(0).integers(0, 256, (96, 192)).astype(np.float32)
    imresize = load_basicsr("basicsr.utils.matlab_functions").imresize
    theirs = imresize(image / 255.0, scale=0.5, antialiasing=True) * 255.0
    np.testing.assert_allclose(half_size(image), theirs, atol=1e-4)


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (1, -1)])
def test_rolled_is_roll(shift):
    blocks = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)
    assert np.array_equal(_rolled(blocks, *shift), np.roll(blocks, shift, axis=(1, 2)))


def test_block_moments_by_hand():
    blocks = np.array([[[-1, -3], [2, 0]], [[0, 0], [1, 1]]], np.float32)
    np.testing.assert_array_equal(block_moments(blocks), [[5, 4, 1.5, 3.5], [np.nan, 1, 0.5, 0.5]])


@pytest.mark.parametrize(("shape", "left", "right"), [(2.0, 1.0, 1.0), (1.0, 0.5, 0.5), (2.0, 1.0, 2.0)])
def test_fit_finds_the_distribution(shape, left, right):
    """Moments of the density ~ exp(-(|x| / scale)^shape) with different scales on the two sides."""
    gamma = math.gamma
    share = left / (left + right)
    ratio = gamma(3 / shape) / gamma(1 / shape)
    magnitude = gamma(2 / shape) / gamma(1 / shape) * (share * left + (1 - share) * right)
    square = ratio * (share * left**2 + (1 - share) * right**2)
    moments = np.array([[ratio * left**2, ratio * right**2, magnitude, square]], np.float32)
    assert [v[0] for v in fit_aggd(moments)] == pytest.approx([shape, left, right], abs=2e-3)


def test_edges():
    assert math.isnan(NIQE()(torch.full((3, 96, 192), 0.5)))
    with pytest.raises(DataError, match="two blocks"):
        NIQE(crop_border=1)(torch.rand(3, 192, 97))
    assert NIQE().needs_gt is False
    assert NIQE(crop_border=4).protocol == "Y (BT.601), crop 4, 8-bit"
