"""On a GPU nothing may wait for the device. Seen without one: tensors that have a device and shapes, but no numbers.

Under `FakeTensorMode` reading a number (`.item()`, a shape that depends on data) is an error, and so is an operation on
tensors of two devices.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tgsr.degradations import jpeg, ops_torch, usm
from tgsr.degradations.named import pipeline
from tgsr.degradations.named.pipeline import GRIDS_DEGRADATIONS, NamedSpace
from tgsr.degradations.second_order import SecondOrderSpace
from tgsr.degradations.usm import sharpen

GPU = torch.device("cuda", 0)


class NoCopyToHost(TorchDispatchMode):
    """Refuses copies from the GPU to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        out = func(*args, **(kwargs or {}))
        sources = [a for a in args if isinstance(a, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.device.type == "cpu":
            assert all(a.device.type == "cpu" for a in sources), f"{func} copies to the host"
        return out


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors of the mode on `cuda:0`; what is uploaded is forgotten but for its shape."""

    def upload(arrays, device):
        dtypes = {name: torch.from_numpy(np.empty(0, a.dtype)).dtype for name, a in arrays.items()}
        return {name: torch.empty(a.shape, dtype=dtypes[name], device=device) for name, a in arrays.items()}

    for module in (ops_torch, pipeline):
        monkeypatch.setattr(module, "upload", upload)
    caches = (jpeg._constants, ops_torch._all_tables, usm._blur_matrix)
    with FakeTensorMode(allow_non_fake_inputs=True), NoCopyToHost():
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("name", GRIDS_DEGRADATIONS)
def test_named_degradations_do_not_wait(fake_gpu, name):
    space = NamedSpace(degradation=name)
    params = space.draw(np.random.default_rng(0).random((3, space.num_uniforms)))
    lq = space.pipeline.apply(torch.empty(3, 3, 64, 80, device=GPU), params, torch.Generator())
    assert (lq.shape, lq.device) == ((3, 3, 64, 80), GPU)


@pytest.mark.parametrize("has_generator", [False, True])
@pytest.mark.parametrize("preset", ["x4plus", "first_order", "none"])
def test_degrading_does_not_wait(fake_gpu, preset, has_generator):
    space = SecondOrderSpace(preset=preset)
    params = space.draw(np.random.default_rng(0).random((6, space.num_uniforms)))
    gt = torch.empty(6, 3, 64, 80, device=GPU).contiguous(memory_format=torch.channels_last)
    generator = torch.Generator() if has_generator else None  # one of the GPU cannot be made without it
    lq = space.pipeline.apply(sharpen(gt), params, generator)
    assert (lq.shape, lq.device) == ((6, 3, 16, 20), GPU)


def test_the_watch_sees_reading_and_copying(fake_gpu):
    x = torch.empty(3, device=GPU)
    with pytest.raises(DataDependentOutputException):
        x.sum().item()
    with pytest.raises(AssertionError, match="copies to the host"):
        x.cpu()


def test_a_real_codec_is_known_to_copy(fake_gpu):
    space = SecondOrderSpace(jpeg="codec")
    params = space.draw(np.random.default_rng(0).random((2, space.num_uniforms)))
    with pytest.raises(AssertionError, match="copies to the host"):
        space.pipeline.apply(torch.empty(2, 3, 64, 64, device=GPU), params)
