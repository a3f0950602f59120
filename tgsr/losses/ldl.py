"""LDL (Liang, Zeng, Zhang: Details or Artifacts, CVPR 2022): a pixel loss where a network is likely to invent."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from tgsr.losses.base import LOSSES, Loss, LossContext
from tgsr.losses.pixel import charbonnier_loss, l1_loss, mse_loss
from tgsr.utils.errors import ConfigError


def artifact_map(gt: torch.Tensor, restored: torch.Tensor, averaged: torch.Tensor, *, window: int = 7) -> torch.Tensor:
    """How much each pixel looks like an artefact (equations 3 to 5), with gradient to `restored`.

    Local variance of the residual times a fifth root of its variance over the image; 0 where the residual is smaller
    than that of the averaged network, which invents less.

    Args:
        gt: `(B, C, H, W)`.
        restored: of the network that learns.
        averaged: of the average of its weights.
        window: edge of the square of local variances, odd.

    Returns:
        `(B, 1, H, W)`.
    """
    residual = (gt - restored).abs().sum(1, keepdim=True)
    calmer = (gt - averaged).abs().sum(1, keepdim=True)
    whole = residual.var(dim=(1, 2, 3), keepdim=True).clamp(min=1e-20) ** 0.2  # the root has no slope at 0
    padded = F.pad(residual, [window // 2] * 4, mode="reflect")
    local = padded.unfold(2, window, 1).unfold(3, window, 1).var(dim=(-1, -2))
    return torch.where(residual < calmer, torch.zeros_like(local), whole * local)


@LOSSES.register()
class LDLLoss(Loss):
    """Pixel loss weighted by the artefact map. Needs `train.ema_decay`: the map asks the averaged network.

    Args:
        loss_weight: factor of the loss.
        target: image to compare with.
        criterion: `l1` mean absolute, `l2` mean squared difference, or `charbonnier`, of the images times the map.
        window: edge of the square of local variances, odd.
    """

    needs_average = True

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        target: Literal["gt", "gt_usm"] = "gt",
        criterion: Literal["l1", "l2", "charbonnier"] = "l1",
        window: int = 7,
    ) -> None:
        super().__init__(loss_weight=loss_weight, target=target)
        if window < 3 or window % 2 == 0:
            raise ConfigError(f"window is {window}", remedy="an odd number from 3 on")
        self.window = window
        self._compare = {"l1": l1_loss, "l2": mse_loss, "charbonnier": charbonnier_loss}[criterion]

    def forward(self, context: LossContext) -> torch.Tensor:
        if context.averaged is None:
            raise ConfigError("the LDL loss asks the averaged network", remedy="set train.ema_decay, e.g. to 0.999")
        gt, restored = context.targets[self.target].float(), context.outputs["sr"].float()
        with torch.autocast(restored.device.type, enabled=False):
            weight = artifact_map(gt, restored, context.averaged().float(), window=self.window)
        return self.loss_weight * self._compare(weight * restored, weight * gt)
