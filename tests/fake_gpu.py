"""A GPU without one: tensors that have a device and shapes, but no numbers.

Under `FakeTensorMode` reading a number (`.item()`, a shape that depends on data) is an error, and so is an operation on
tensors of two devices; `NoWaiting` adds copies that somebody would wait for. Backward passes need a real device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tgsr.degradations import jpeg, ops_torch, usm
from tgsr.utils.device import upload

GPU = torch.device("cuda", 0)


def is_usable() -> bool:
    """Whether this torch makes tensors of a GPU that is not there; 2.6 asks for a driver."""
    try:
        with FakeTensorMode():
            torch.empty(1, 3, 8, 8, device=GPU).contiguous(memory_format=torch.channels_last)
    except (AssertionError, RuntimeError):
        return False
    return True


class NoWaiting(TorchDispatchMode):
    """Refuses copies from the GPU to the host, and those to the GPU that the host would wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        devices = {t.device.type for t in given}
        if devices == {"cuda"}:
            assert all(t.device.type == "cuda" for t in made), f"{func} copies to the host"
        if func is torch.ops.aten._to_copy.default and devices == {"cpu"} and made[0].device.type == "cuda":
            assert (kwargs or {}).get("non_blocking"), f"{func} waits for a copy to the GPU"
        return out


def _upload(arrays: dict[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """What is uploaded is forgotten but for its shape."""
    dtypes = {name: torch.from_numpy(np.empty(0, a.dtype)).dtype for name, a in arrays.items()}
    return {name: torch.empty(a.shape, dtype=dtypes[name], device=device) for name, a in arrays.items()}


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Tensors made inside are fake; those on `GPU` may be computed with, not read."""
    caches = (jpeg._constants, ops_torch._all_tables, usm._blur_matrix)
    users = [m for m in list(sys.modules.values()) if getattr(m, "upload", None) is upload]
    for cache in caches:
        cache.cache_clear()
    try:
        with ExitStack() as stack:
            for module in users:
                stack.enter_context(patch.object(module, "upload", _upload))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(NoWaiting())
            yield
    finally:
        for cache in caches:
            cache.cache_clear()
