"""Pixel losses of an image pair and total variation, with BasicSR's formulas, per sample."""

from __future__ import annotations

from typing import Literal

import torch

from tgsr.losses.base import LOSSES, Loss, LossContext, PairLoss


def per_sample_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean over everything but the batch: `(B, ...)` -> `(B,)` in fp32."""
    return values.float().flatten(1).mean(1) if values.dim() > 1 else values.float()


def l1_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of each sample `(B,)`."""
    return per_sample_mean((restored.float() - target.float()).abs())


def mse_loss(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of each sample `(B,)`."""
    return per_sample_mean((restored.float() - target.float()).square())


def charbonnier_loss(restored: torch.Tensor, target: torch.Tensor, *, eps: float = 1e-12) -> torch.Tensor:
    """Mean of sqrt(difference^2 + eps) of each sample `(B,)`."""
    return per_sample_mean(((restored.float() - target.float()).square() + eps).sqrt())


@LOSSES.register()
class L1Loss(PairLoss):
    """Mean absolute error.

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
    """

    def __init__(self, *, loss_weight: float = 1.0, target: Literal["gt", "gt_usm"] = "gt") -> None:
        super().__init__(loss_weight=loss_weight, target=target)

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return l1_loss(restored, target)


@LOSSES.register()
class MSELoss(PairLoss):
    """Mean squared error.

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
    """

    def __init__(self, *, loss_weight: float = 1.0, target: Literal["gt", "gt_usm"] = "gt") -> None:
        super().__init__(loss_weight=loss_weight, target=target)

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return mse_loss(restored, target)


@LOSSES.register()
class CharbonnierLoss(PairLoss):
    """Smooth form of the mean absolute error, sqrt(difference^2 + eps).

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
        eps: added under the root (BasicSR's convention: `eps` itself, not its square).
    """

    def __init__(self, *, loss_weight: float = 1.0, target: Literal["gt", "gt_usm"] = "gt", eps: float = 1e-12) -> None:
        super().__init__(loss_weight=loss_weight, target=target)
        self.eps = eps

    def compare(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return charbonnier_loss(restored, target, eps=self.eps)


def total_variation(image: torch.Tensor) -> torch.Tensor:
    """Mean absolute vertical plus mean absolute horizontal neighbour difference of each sample `(B,)`."""
    vertical, horizontal = image.float().diff(dim=-2).abs(), image.float().diff(dim=-1).abs()
    return per_sample_mean(vertical) + per_sample_mean(horizontal)


@LOSSES.register()
class WeightedTVLoss(Loss):
    """Total variation of the restored image (no target).

    Args:
        loss_weight: factor of the loss.
    """

    def __init__(self, *, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight=loss_weight)

    def forward(self, context: LossContext) -> torch.Tensor:
        return self.loss_weight * total_variation(context.outputs["sr"])
