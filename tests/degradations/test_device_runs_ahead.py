"""On a GPU no degradation may wait for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from tests.fake_gpu import GPU, fake_gpu, is_usable
from tgsr.degradations.named.pipeline import GRIDS_DEGRADATIONS, NamedSpace
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.degradations.usm import sharpen

pytestmark = pytest.mark.skipif(not is_usable(), reason="this torch makes no tensors of an absent GPU")


def draw(space, num):
    return space.draw(np.random.default_rng(0).random((num, space.num_uniforms)))


@pytest.mark.parametrize("has_generator", [False, True])
@pytest.mark.parametrize("preset", ["x4plus", "first_order", "none"])
def test_degrading_does_not_wait(preset, has_generator):
    space = SecondOrderSpace(preset=preset)
    with fake_gpu():
        gt = torch.empty(6, 3, 64, 80, device=GPU).contiguous(memory_format=torch.channels_last)
        generator = torch.Generator() if has_generator else None  # one of the GPU cannot be made without it
        lq = space.pipeline.apply(sharpen(gt), draw(space, 6), generator)
    assert (lq.shape, lq.device) == ((6, 3, 16, 20), GPU)


@pytest.mark.parametrize("name", GRIDS_DEGRADATIONS)
def test_named_degradations_do_not_wait(name):
    space = NamedSpace(degradation=name)
    with fake_gpu():
        lq = space.pipeline.apply(torch.empty(3, 3, 64, 80, device=GPU), draw(space, 3), torch.Generator())
    assert (lq.shape, lq.device) == ((3, 3, 64, 80), GPU)


def test_the_watch_sees_reading_and_copying():
    with fake_gpu():
        x = torch.empty(3, device=GPU)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(AssertionError, match="copies to the host"):
            x.cpu()


def test_a_real_codec_is_known_to_copy():
    space = SecondOrderSpace(jpeg="codec")
    with fake_gpu(), pytest.raises(AssertionError, match="copies to the host"):
        space.pipeline.apply(torch.empty(2, 3, 64, 64, device=GPU), draw(space, 2))
