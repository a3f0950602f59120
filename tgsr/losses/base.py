"""The contract of losses: per-sample values from a context; plain image-pair losses need one function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tgsr.utils.registry import Registry

LOSSES = Registry("loss", package="tgsr.losses")


@dataclass
class LossContext:
    """What a generator loss may look at in one training step.

    Attributes:
        outputs: what the network returned by name; `sr` `(B, 3, H, W)` is always there, a network that returns a
            mapping adds its own (Cria-CL: `align`, `unif`, `mask`).
        targets: `gt` `(B, 3, H, W)` and, where made, `gt_usm`.
        lq: the network's input `(B, 3, h, w)`.
        task_ids: `(B,)` int64.
        discriminator: the frozen discriminator in an adversarial model, else None.
        iteration: counted from 0.
        averaged: gives the output `(B, 3, H, W)` of the averaged network, without gradient; None: there is no average.
    """

    outputs: Mapping[str, torch.Tensor]
    targets: Mapping[str, torch.Tensor]
    lq: torch.Tensor
    task_ids: torch.Tensor
    discriminator: nn.Module | None
    iteration: int
    averaged: Callable[[], torch.Tensor] | None = None


class Loss(nn.Module, ABC):
    """A weighted generator loss.

    Args:
        loss_weight: factor of the whole loss; applied here, so that logs show what is minimised.
        target: which target image it compares with, `gt` or `gt_usm`.

    Attributes:
        needs_average: whether it asks the averaged network (`train.ema_decay`).
        num_channels: of the images that it takes; None: any.
    """

    needs_average = False
    num_channels: int | None = None

    def __init__(self, *, loss_weight: float = 1.0, target: str = "gt") -> None:
        super().__init__()
        self.loss_weight, self.target = loss_weight, target

    @abstractmethod
    def forward(self, context: LossContext) -> torch.Tensor:
        """`(B,)` weighted loss of each sample, with gradient to the network's outputs."""


class PairLoss(Loss):
    """A loss of the restored image and its target alone."""

    @abstractmethod
    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`(B,)` unweighted."""

    def forward(self, context: LossContext) -> torch.Tensor:
        return self.loss_weight * self.compare(context.outputs["sr"], context.targets[self.target])
