"""The contract of metrics: images in [0, 1] RGB in, a number out, and the protocol that produced it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from tgsr.utils.registry import Registry

METRICS = Registry("metric", package="tgsr.metrics")


class Metric(ABC):
    """One image quality metric.

    Attributes:
        higher_is_better: for best-by-metric and for bold numbers in tables.
        needs_gt: False for no-reference metrics.
        protocol: one short string that fixes the number, e.g. `Y (BT.601), crop 4, 8-bit`; written beside every value.
    """

    higher_is_better: bool
    needs_gt: bool = True
    protocol: str

    @abstractmethod
    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        """Value for one image pair `(3, H, W)` RGB in [0, 1] on any device; rounding to 8 bits happens inside."""
