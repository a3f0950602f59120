"""What a GPU wants: data in few copies that nobody waits for, and products that are not rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

_ALIGNMENT = 16
_DTYPES = {
    "bool": torch.bool, "int64": torch.int64, "float32": torch.float32, "float64": torch.float64
}  # fmt: skip


def upload(arrays: Mapping[str, np.ndarray], device: torch.device) -> dict[str, torch.Tensor]:
    """All arrays (bool, int64, float32, float64) in one copy; to a GPU from pinned memory: the host does not wait."""
    offsets, total = [], 0
    for array in arrays.values():
        offsets.append(total)
        total += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    pinned = device.type == "cuda" and torch.cuda.is_available()
    buffer = torch.empty(max(total, 1), dtype=torch.uint8, pin_memory=pinned)
    host = buffer.numpy()
    for array, start in zip(arrays.values(), offsets, strict=True):
        host[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    moved = buffer.to(device, non_blocking=True)
    return {
        name: moved[start : start + array.nbytes].view(_DTYPES[array.dtype.name]).view(array.shape)
        for (name, array), start in zip(arrays.items(), offsets, strict=True)
    }


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Inside, products of fp32 matrices are fp32: no autocast, no TF32, whatever was chosen for training."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(chosen)
