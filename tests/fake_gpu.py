"""A GPU without one: tensors that have a device and shapes, but no numbers.

Under `FakeTensorMode` reading a number (`.item()`, a shape that depends on data) is an error, and so is an operation on
tensors of two devices; `NoCopyToHost` adds copies to the host. Backward passes need a real device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tgsr.data import base
from tgsr.degradations import jpeg, ops_torch, usm
from tgsr.degradations.named import pipeline

GPU = torch.device("cuda", 0)


class NoCopyToHost(TorchDispatchMode):
    """Refuses copies from the GPU to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sources = [a for a in args if isinstance(a, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.device.type == "cpu":
            assert all(a.device.type == "cpu" for a in sources), f"{func} copies to the host"
        return out


def _upload(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """What is uploaded is forgotten but for its shape."""
    dtypes = {name: torch.from_numpy(np.empty(0, a.dtype)).dtype for name, a in arrays.items()}
    return {name: torch.empty(a.shape, dtype=dtypes[name], device=device) for name, a in arrays.items()}


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors made inside are fake; those on `GPU` may be computed with, not read."""
    caches = (jpeg._constants, ops_torch._all_tables, usm._blur_matrix)
    patches = [patch.object(module, "upload", _upload) for module in (ops_torch, pipeline, base)]
    for cache in caches:
        cache.cache_clear()
    try:
        with patches[0], patches[1], patches[2], FakeTensorMode(allow_non_fake_inputs=True), NoCopyToHost():
            yield
    finally:
        for cache in caches:
            cache.cache_clear()
