"""Noise collected from a source: what is cut out, how it is added, and that parameters give the image again."""

import numpy as np
import pytest
import torch

from tgsr.degradations.base import SPACES, space_from_json
from tgsr.degradations.source_noise import cut_noise, smooth_patches
from tgsr.utils.errors import DataError
from tgsr.utils.resize import imresize


@pytest.fixture
def space(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.integers(90, 110, (3, 8, 8, 3), dtype=np.uint8))
    return SPACES.get("SourceNoise")(noise=tmp_path / "noise.npy", scale=2)


def test_the_smooth_part_of_an_image_is_found():
    image = np.zeros((20, 24, 3), np.uint8)
    image[:8, 8:16] = np.arange(8)[:, None, None]  # variance 5.25
    image[8:16] = np.arange(24)[None, :, None] * 10
    found = {(top, left): v for v, top, left in smooth_patches(image, 8)}
    assert len(found) == 6  # the last four rows are left out
    assert found[0, 0] == 0
    assert found[0, 8] == pytest.approx(5.25)
    assert found[8, 0] == pytest.approx(525)


def test_noise_has_no_mean_and_goes_on_mirrored():
    patch = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    noise = cut_noise(patch, 0.0, 0.0, 4, 4)
    assert noise.mean((0, 1)) == pytest.approx(np.zeros(3), abs=1e-7)
    assert np.array_equal(cut_noise(patch, 0.999, 0.5, 2, 3), noise[2:4, 1:4])
    wide = cut_noise(patch, 0.7, 0.7, 4, 10)
    assert np.array_equal(wide, np.concatenate([noise, noise[:, ::-1], noise[:, :2]], 1))


def test_an_image_is_made_smaller_and_gets_the_noise_of_its_parameters(space):
    gt = torch.full((2, 3, 12, 16), 0.5)
    gt[..., 8:] = 0.25
    params = space.draw(np.array([[0.1, 0.0, 0.0, 0.0], [0.2, 0.99, 0.6, 0.3]]))
    assert params["patch"].tolist() == [0, 2]
    assert space.contains(params).all()
    lq = space.pipeline.apply(gt, params)
    patches = np.load(space.pipeline.noise)
    small = imresize(gt, 0.5)
    noise = torch.from_numpy((patches[2].astype(float) - patches[2].mean((0, 1)))[1:7, 0:8] / 255)
    want = ((small[1].double() + noise.permute(2, 0, 1)) * 255).round() / 255
    assert torch.allclose(lq[1].double(), want, atol=1 / 255 + 1e-6)
    assert (lq[1].double() - want).abs().mean() < 1e-3  # rounding at .5 aside
    assert torch.equal(lq[1:], space.pipeline.apply(gt[1:], params.take([1])))
    assert space_from_json(space.to_json()) == space


def test_what_is_no_noise_is_refused(tmp_path):
    np.save(tmp_path / "noise.npy", np.zeros((2, 8, 8), np.float32))
    for name, problem in (("noise.npy", "patches of noise are"), ("gone.npy", "no patches of noise")):
        with pytest.raises(DataError, match=problem):
            SPACES.get("SourceNoise")(noise=tmp_path / name).draw(np.zeros((1, 4)))
