"""Criteria comparative losses (equations 6 to 9): pure functions of criteria, and the losses an option file names.

C_a is the anchor, C_i its positives, C_k its negatives; S is the mask of equation 10. Criteria are maps `(B, 1, H, W)`
or `(B,)`, which broadcast. All values are per sample, in fp32 at any precision.

What the equations leave open is an option, and its default is what can be minimised: the alignment moves the positives
towards the anchor and not the anchor towards larger positives (`detach_anchor`), and the uniformity has the sign of
equation 9, bounded below, not that of equation 7.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from tgsr.config.spec import NonNegativeInt, Range
from tgsr.losses.base import LOSSES, Loss, LossContext
from tgsr.losses.pixel import per_sample_mean
from tgsr.methods.cria_cl.criteria import CriterionSpec, ImageName, build_criteria, criterion, output_of
from tgsr.utils.errors import ConfigError

logger = logging.getLogger("tgsr")
Normalise = Literal["none", "mean", "l2"]
Target = Literal["gt", "gt_usm"]
Reduction = Literal["map", "scalar", "batch"]
EPS = 1e-8


def alignment(
    anchor: Tensor,
    positives: Sequence[Tensor],
    *,
    eta: float = 2.0,
    mask: Tensor | None = None,
    detach_anchor: bool = True,
) -> Tensor:
    """Equation 8: mean over pixels of S * sum_i |C_a - C_i|^eta.

    Args:
        anchor: C_a on I_align.
        positives: C_i on I_align.
        eta: exponent; the paper's 2. An odd one takes the absolute difference.
        mask: S; None: 1.
        detach_anchor: no gradient into C_a. As printed (False) the derivative by C_a is -2 sum_i (C_i - C_a) < 0
            where the positives are larger: the loss raises the pixel error.

    Returns:
        `(B,)`.
    """
    anchor = _as_map(anchor)
    reference = anchor.detach() if detach_anchor else anchor
    total = sum((reference - _as_map(c)).abs().pow(eta) for c in positives)
    return _weighted_mean(total, mask)


def uniformity(
    anchor: Tensor,
    negatives: Sequence[Tensor],
    *,
    t: float = 2.0,
    mask: Tensor | None = None,
    mean_exp: bool = False,
) -> Tensor:
    """Equation 9: mean over pixels of (1 - S) * -log sum_k exp(-t (C_a + C_k)^2).

    Args:
        anchor: C_a on I_unif.
        negatives: C_k on I_unif.
        t: the paper's 2.
        mask: 1 - S; None: 1.
        mean_exp: the mean of the exponentials instead of their sum, which adds log K: never negative, so that it does
            not reward a larger 1 - S where both criteria are small.

    Returns:
        `(B,)`, at least -log K (with `mean_exp`: 0) times the mean of the mask.
    """
    value = -_log_sum_exp(anchor, negatives, t)
    if mean_exp:
        value = value + math.log(len(negatives))
    return _weighted_mean(value, mask)


def contrastive_ratio(
    anchor_align: Tensor,
    positives: Sequence[Tensor],
    anchor_unif: Tensor,
    negatives: Sequence[Tensor],
    *,
    eta: float = 2.0,
    t: float = 2.0,
) -> Tensor:
    """Equation 6 as printed, with phi+ = -|C_a - C_i|^eta and phi- = -t (C_a + C_k)^2.

    For study only: its negative part has the opposite sign of equation 9 and falls without bound as the criteria on
    I_unif grow, so nothing trains with it.

    Returns:
        `(B,)`.
    """
    anchor_align = _as_map(anchor_align)
    positive = torch.logsumexp(_stack([-(anchor_align - _as_map(c)).abs().pow(eta) for c in positives]), 0)
    return per_sample_mean(_log_sum_exp(anchor_unif, negatives, t) - positive)


def normalised(value: Tensor, how: Normalise) -> Tensor:
    """A criterion's map brought to a common scale, sample by sample.

    Args:
        value: `(B, 1, H, W)` or `(B,)`.
        how: `none`; `mean`: divided by its mean, through which no gradient flows, so that only the layout in the image
            compares; `l2`: centred and divided by its root mean square, so that the mean of a product of two maps is
            their cosine and (C_a + C_k)^2 = 0 means opposite maps.

    Raises:
        ConfigError: a value without pixels, of which nothing would be left.
    """
    value = _as_map(value)
    if how == "none":
        return value
    if value[0].numel() == 1:
        raise ConfigError(
            f"normalise: {how} leaves nothing of a criterion with one value per image",
            place="train.losses", remedy="set normalise: none, reduction: map, or a discriminator with a map",
        )  # fmt: skip
    if how == "mean":
        return value / value.detach().mean((1, 2, 3), keepdim=True).clamp_min(EPS)
    centred = value - value.mean((1, 2, 3), keepdim=True)
    return centred / (centred.square().mean((1, 2, 3), keepdim=True) + EPS).sqrt()


def mask_state(mask: Tensor) -> tuple[float, float]:
    """Mean of S, and the share of pixels where it is below 0.01 or above 0.99 (where it gets hardly any gradient)."""
    mask = mask.detach().float()
    return mask.mean().item(), ((mask < 0.01) | (mask > 0.99)).float().mean().item()


def _as_map(value: Tensor) -> Tensor:
    return value.float().view(-1, 1, 1, 1) if value.dim() == 1 else value.float()


def _stack(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch.broadcast_tensors(*values))


def _log_sum_exp(anchor: Tensor, negatives: Sequence[Tensor], t: float) -> Tensor:
    """log sum_k exp(-t (C_a + C_k)^2); exp alone underflows in fp32 from C_a + C_k = 7 on."""
    anchor = _as_map(anchor)
    return torch.logsumexp(_stack([-t * (anchor + _as_map(c)).square() for c in negatives]), 0)


def _weighted_mean(value: Tensor, mask: Tensor | None) -> Tensor:
    return per_sample_mean(value if mask is None else value * _as_map(mask))


class _CriteriaLoss(Loss):
    """A loss of an anchor and other criteria on one image of the network, weighted by a mask."""

    role = ""

    def __init__(
        self,
        *,
        anchor: CriterionSpec,
        others: list[CriterionSpec],
        image: str,
        reduction: str,
        normalise: Normalise,
        spatial_view: bool,
        detach_mask: bool,
        watch_masks: int,
        loss_weight: float,
        target: str,
    ) -> None:
        super().__init__(loss_weight=loss_weight, target=target)
        if reduction != "map" and normalise != "none":
            raise ConfigError(
                f"normalise: {normalise} needs maps", place=anchor.place, remedy="set reduction: map or normalise: none"
            )
        self.others = build_criteria(others, anchor, self.role)
        self.anchor = anchor.build()
        self.image, self.reduction, self.normalise = image, reduction, normalise
        self.spatial_view, self.detach_mask, self.watch_masks = spatial_view, detach_mask, watch_masks

    def criteria(self, context: LossContext) -> tuple[Tensor, list[Tensor]]:
        """The anchor and the others on this loss's image, normalised and reduced as the options say."""
        image, target = output_of(context, self.image), context.targets[self.target]
        values = [_as_map(c(image, target, context)) for c in (self.anchor, *self.others)]
        if self.reduction == "scalar":
            values = [v.mean((1, 2, 3), keepdim=True) for v in values]
        elif self.reduction == "batch":
            values = [v.mean().expand(len(image), 1, 1, 1) for v in values]
        anchor, *others = (normalised(v, self.normalise) for v in values)
        return anchor, others

    def mask(self, context: LossContext) -> Tensor | None:
        """S, or None where the network has none or the spatial view is off."""
        mask = context.outputs.get("mask") if self.spatial_view else None
        if mask is None:
            return None
        if self.watch_masks and context.iteration and context.iteration % self.watch_masks == 0:
            self._watch(mask, context.iteration)
        mask = _as_map(mask.detach() if self.detach_mask else mask)
        return mask if self.reduction == "map" else mask.mean((1, 2, 3), keepdim=True)

    def _watch(self, mask: Tensor, iteration: int) -> None:
        mean, saturated = mask_state(mask)
        if saturated > 0.95 or not 0.02 < mean < 0.98:
            logger.warning(
                "iteration %d: the spatial masks saturate (mean of S %.3f, %.0f %% of the pixels at 0 or 1): there one "
                "branch learns next to nothing; lower the weights of the criteria losses, set detach_mask: true, or "
                "mean_exp: true for the uniformity",
                iteration, mean, 100 * saturated,
            )  # fmt: skip

    @abstractmethod
    def compare(self, anchor: Tensor, others: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """`(B,)` unweighted."""

    def forward(self, context: LossContext) -> Tensor:
        anchor, others = self.criteria(context)
        return self.loss_weight * self.compare(anchor, others, self.mask(context))


@LOSSES.register()
class AlignmentLoss(_CriteriaLoss):
    """L_align of Cria-CL (equation 8): positive criteria are brought to the anchor, where S is large.

    Args:
        anchor: criterion; None: pixel.
        positives: criteria; None: ssim and perceptual_bottom, as in the paper.
        eta: exponent, 1 or more.
        detach_anchor: no gradient into the anchor; False: as printed, which raises the anchor's criterion where the
            positives are larger.
        image: which output of the network.
        reduction: compare maps, or their means over the image (`scalar`) or over the micro batch (`batch`).
        normalise: `none`; `mean`: each map divided by its mean; `l2`: centred and of unit root mean square.
        spatial_view: weight pixels by S where the network returns it.
        detach_mask: no gradient into S.
        watch_masks: iterations between two looks for saturated masks, the first after as many; 0: never.
        loss_weight: factor of the loss; the paper's 0.01.
        target: image to compare with.
    """

    role = "positives"

    def __init__(
        self,
        *,
        anchor: CriterionSpec | None = None,
        positives: list[CriterionSpec] | None = None,
        eta: Annotated[float, Range(1)] = 2.0,
        detach_anchor: bool = True,
        image: Literal["align", "sr"] = "align",
        reduction: Reduction = "map",
        normalise: Normalise = "none",
        spatial_view: bool = True,
        detach_mask: bool = False,
        watch_masks: NonNegativeInt = 100,
        loss_weight: float = 0.01,
        target: Target = "gt",
    ) -> None:
        super().__init__(
            anchor=anchor or criterion("pixel"),
            others=[criterion("ssim"), criterion("perceptual_bottom")] if positives is None else positives,
            image=image, reduction=reduction, normalise=normalise, spatial_view=spatial_view, detach_mask=detach_mask,
            watch_masks=watch_masks, loss_weight=loss_weight, target=target,
        )  # fmt: skip
        self.eta, self.detach_anchor = eta, detach_anchor

    def compare(self, anchor: Tensor, others: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        return alignment(anchor, others, eta=self.eta, mask=mask, detach_anchor=self.detach_anchor)


@LOSSES.register()
class UniformityLoss(_CriteriaLoss):
    """L_unif of Cria-CL (equation 9): the anchor and negative criteria made small together, where 1 - S is large.

    Args:
        anchor: criterion; None: pixel.
        negatives: criteria; None: perceptual_top and adversarial, as in the paper. With several it is a soft minimum:
            the smallest gets the gradient, so keep them on comparable scales (`weight` of each).
        t: sharpness.
        mean_exp: the mean of the exponentials instead of their sum; keeps the loss from being negative.
        image: which output of the network.
        reduction: compare maps, or their means over the image (`scalar`) or over the micro batch (`batch`).
        normalise: `none`; `mean`: each map divided by its mean; `l2`: centred and of unit root mean square.
        spatial_view: weight pixels by 1 - S where the network returns S.
        detach_mask: no gradient into S.
        watch_masks: iterations between two looks for saturated masks, the first after as many; 0: never.
        loss_weight: factor of the loss; the paper's 0.01.
        target: image to compare with.
    """

    role = "negatives"

    def __init__(
        self,
        *,
        anchor: CriterionSpec | None = None,
        negatives: list[CriterionSpec] | None = None,
        t: Annotated[float, Range(0)] = 2.0,
        mean_exp: bool = False,
        image: Literal["unif", "sr"] = "unif",
        reduction: Reduction = "map",
        normalise: Normalise = "none",
        spatial_view: bool = True,
        detach_mask: bool = False,
        watch_masks: NonNegativeInt = 100,
        loss_weight: float = 0.01,
        target: Target = "gt",
    ) -> None:
        super().__init__(
            anchor=anchor or criterion("pixel"),
            others=[criterion("perceptual_top"), criterion("adversarial")] if negatives is None else negatives,
            image=image, reduction=reduction, normalise=normalise, spatial_view=spatial_view, detach_mask=detach_mask,
            watch_masks=watch_masks, loss_weight=loss_weight, target=target,
        )  # fmt: skip
        self.t, self.mean_exp = t, mean_exp

    def compare(self, anchor: Tensor, others: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        mask = None if mask is None else 1 - mask
        return uniformity(anchor, others, t=self.t, mask=mask, mean_exp=self.mean_exp)


@LOSSES.register()
class CriterionLoss(Loss):
    """The mean of one criterion on one image of the network: a term of the weighted sum (equations 2 and 11).

    Args:
        criterion: which.
        image: which output of the network.
        loss_weight: factor of the loss.
        target: image to compare with.
    """

    def __init__(
        self,
        *,
        criterion: CriterionSpec,
        image: ImageName = "sr",
        loss_weight: float = 1.0,
        target: Target = "gt",
    ) -> None:
        super().__init__(loss_weight=loss_weight, target=target)
        self.criterion, self.image = criterion.build(), image

    def forward(self, context: LossContext) -> Tensor:
        value = self.criterion(output_of(context, self.image), context.targets[self.target], context)
        return self.loss_weight * per_sample_mean(value)
