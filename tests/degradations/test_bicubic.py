"""MATLAB's bicubic resize and the classical degradation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.basicsr_oracle import load_basicsr
from tgsr.degradations.base import SPACES, space_from_json
from tgsr.utils.errors import ConfigError
from tgsr.utils.resize import imresize


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 1 / 2, 0.7, 1.5, 2, 3, 4])
@pytest.mark.parametrize("shape", [(40, 52), (31, 37)])
def test_imresize_equals_basicsr(scale: float, shape: tuple[int, int]) -> None:
    oracle = load_basicsr("basicsr.utils.matlab_functions")
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    theirs = oracle.imresize(x, scale)
    ours = imresize(x, scale)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def test_imresize_is_batched_keeps_its_type_and_its_mean() -> None:
    x = torch.rand(2, 3, 24, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    out = imresize(x, 0.5)
    assert out.dtype == torch.float64
    assert torch.allclose(out[1], imresize(x[1], 0.5), atol=1e-14)
    assert torch.allclose(imresize(torch.full((1, 1, 9, 9), 0.25), 4.0), torch.tensor(0.25), atol=1e-6)
    assert imresize(x, size=(7, 50)).shape == (2, 3, 7, 50)
    assert torch.allclose(imresize(x, 1.0), x, atol=1e-12)


def test_imresize_known_weights() -> None:
    # x0.5 of a unit impulse: MATLAB's antialiased cubic has taps (-0.01171875 -0.03515625 0.11328125 0.43359375 ...)
    x = torch.eye(16, dtype=torch.float64)[None]
    half = torch.tensor([-0.01171875, -0.03515625, 0.11328125, 0.43359375], dtype=torch.float64)
    taps = torch.cat([half, half.flip(0)])
    one_axis = imresize(x, size=(8, 16))[0]
    assert torch.allclose(one_axis[4, 5:13], taps, atol=1e-12)


def test_bicubic_space_and_pipeline() -> None:
    space = SPACES.get("Bicubic")(scale=3)
    params = space.draw(np.array([[0.2], [0.4]]))
    assert list(params) == ["noise_seed"]
    assert space.contains(params).all()
    assert space_from_json(space.to_json()) == space
    gt = torch.rand(2, 3, 31, 34, generator=torch.Generator().manual_seed(2))
    lq = space.pipeline.apply(gt, params)
    assert lq.shape == (2, 3, 10, 11)
    assert torch.allclose(lq * 255, (imresize(gt[:, :, :30, :33], 1 / 3) * 255).round().clamp(0, 255), atol=1e-3)
    assert torch.equal(lq, space.pipeline.apply(gt, params, backend="torch"))
    with pytest.raises(ConfigError):
        SPACES.get("Bicubic")(scale=0)
