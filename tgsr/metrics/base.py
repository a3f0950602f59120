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
        is_network: whether it is a network, to be computed where the restoring one is.
        protocol: one short string that fixes the number, e.g. `Y (BT.601), crop 4, 8-bit`; written beside every value.
    """

    higher_is_better: bool
    needs_gt: bool = True
    is_network: bool = False
    protocol: str

    @property
    def identity(self) -> str | None:
        """Metrics of one identity give the same value for the same images; None: not known, it may be changed."""
        kind = type(self)
        return f"{kind.__qualname__}: {self.protocol}" if kind.__module__.startswith("tgsr.") else None

    @abstractmethod
    def __call__(self, restored: torch.Tensor, gt: torch.Tensor | None) -> float:
        """Value for one image pair `(3, H, W)` RGB in [0, 1] on any device; rounding to 8 bits happens inside.

        Pairs of one channel `(1, H, W)` are luma: what networks of one channel restore.
        """

    def too_small(self, height: int, width: int) -> str:
        """Why this cannot be taken for images of this size; empty where it can. Asked before anything is measured."""
        return ""
