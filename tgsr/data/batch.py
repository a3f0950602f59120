"""Batch: what flows from the data room to the models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from tgsr.degradations.params import DegradationParams
from tgsr.utils.luma import luma_of


class PendingDegradation(NamedTuple):
    """What `ImageDataset.degrade_on_device` needs beside the params; on the host, so that nothing waits for a GPU.

    Attributes:
        task_ids: `(B,)` int64, as `Batch.task_ids`.
        crops: `(B, 2)` int64, top and left in LQ pixels of the training crop inside the larger crop in `Batch.gt`.
    """

    task_ids: np.ndarray
    crops: np.ndarray


@dataclass(frozen=True)
class Batch:
    """B samples. Images are `(B, 3, H, W)` float32 RGB in [0, 1].

    A loader may hand them over as uint8 (a quarter of the bytes through shared memory and to the device); `to` makes
    them float32, so models and methods see float32 only.

    Attributes:
        gt: ground truth; None for LQ-only sets.
        lq: degraded input; None until a pipeline on the device has made it.
        gt_usm: sharpened ground truth, where some loss or the pipeline asks for it.
        task_ids: `(B,)` int64 index into the run's TaskSet; 0 when there is one task.
        sample_ids: `(B,)` int64 position in the whole stream of training samples; the key of all its draws.
        params: what `lq` was made with; None for paired data.
        paths: source file of each sample.
        pending: what the device still has to do; None when `lq` is there.
    """

    gt: torch.Tensor | None
    lq: torch.Tensor | None
    gt_usm: torch.Tensor | None = None
    task_ids: torch.Tensor | None = None
    sample_ids: torch.Tensor | None = None
    params: DegradationParams | None = None
    paths: Sequence[str] = ()
    pending: PendingDegradation | None = None

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """All tensors on `device`, images in float32 and, if asked, channels_last.

        Does not wait for the copy of pinned memory.
        """
        moved: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, torch.Tensor):
                image = value.ndim == 4
                memory = {"memory_format": torch.channels_last} if image and channels_last else {}
                value = value.to(device, non_blocking=True)
                if image and value.dtype == torch.uint8:
                    value = value.to(torch.float32).div_(255)
                moved[f.name] = value.to(**memory) if memory else value
        return replace(self, **moved)

    def luma(self) -> Batch:
        """Its float images as BT.601 luma `(B, 1, H, W)`, for networks of one channel."""
        images = {"gt": self.gt, "lq": self.lq, "gt_usm": self.gt_usm}
        return replace(self, **{k: luma_of(v) for k, v in images.items() if v is not None})

    def pin_memory(self) -> Batch:
        """Called by the data loader when it pins."""
        pinned = {
            f.name: getattr(self, f.name).pin_memory()
            for f in fields(self)
            if isinstance(getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **pinned)
