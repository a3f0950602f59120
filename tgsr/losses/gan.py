"""The adversarial game: what generator and discriminator minimise, from the discriminator's logits, per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from tgsr.losses.pixel import per_sample_mean
from tgsr.utils.registry import Registry

GAN_LOSSES = Registry("GAN loss", package="tgsr.losses")

Logits = torch.Tensor | Sequence[torch.Tensor]
"""`(B, ...)` of one discriminator, or one tensor for each scale."""


def _as_scales(logits: Logits) -> list[torch.Tensor]:
    return [logits] if isinstance(logits, torch.Tensor) else list(logits)


@GAN_LOSSES.register()
class GANLoss(nn.Module):
    """BasicSR's GAN losses and ESRGAN's relativistic average form of them.

    With `relativistic` every logit is taken relative to the mean logit of the other kind (mean over this rank's
    batch, as in ESRGAN), generator and discriminator see both kinds, and each part is halved. Logits of several
    scales are averaged.

    Args:
        gan_type: `vanilla` (binary cross-entropy), `lsgan`, `hinge`, `wgan` or `wgan_softplus` (StyleGAN2's logistic).
        loss_weight: factor of the generator's loss; the discriminator's is never weighted.
        relativistic: the RaGAN of ESRGAN.
        real_label_val: label of real images, for `vanilla` and `lsgan`.
        fake_label_val: label of restored images, for `vanilla` and `lsgan`.
        target: which images are the discriminator's real ones.
    """

    def __init__(
        self,
        *,
        gan_type: Literal["vanilla", "lsgan", "hinge", "wgan", "wgan_softplus"] = "vanilla",
        loss_weight: float = 1.0,
        relativistic: bool = False,
        real_label_val: float = 1.0,
        fake_label_val: float = 0.0,
        target: Literal["gt", "gt_usm"] = "gt",
    ) -> None:
        super().__init__()
        self.gan_type, self.loss_weight, self.relativistic, self.target = gan_type, loss_weight, relativistic, target
        self.real_label_val, self.fake_label_val = real_label_val, fake_label_val

    def generator(self, fake_logits: Logits, real_logits: Logits | None = None) -> torch.Tensor:
        """What the generator minimises.

        Args:
            fake_logits: of the restored images, with gradient.
            real_logits: of the real images; needed (and only used) by the relativistic form, where no gradient
                flows into them.

        Returns:
            `(B,)` weighted.
        """
        fakes = _as_scales(fake_logits)
        if not self.relativistic:
            return self.loss_weight * _mean([self._part(f, real=True, critic=False) for f in fakes])
        assert real_logits is not None, "the relativistic generator loss needs the logits of the real images"
        parts = []
        for fake, real in zip(fakes, _as_scales(real_logits), strict=True):
            fake, real = fake.float(), real.detach().float()
            # `critic=True`: the hinge stays a hinge here; its unbounded generator form would cancel to a constant
            parts.append(0.5 * self._part(real - fake.mean(), real=False, critic=True))
            parts[-1] = parts[-1] + 0.5 * self._part(fake - real.mean(), real=True, critic=True)
        return self.loss_weight * _mean(parts)

    def discriminator(self, fake_logits: Logits, real_logits: Logits) -> dict[str, torch.Tensor]:
        """What the discriminator minimises: the sum of the parts.

        Args:
            fake_logits: of the restored images, whose graph must end before the generator.
            real_logits: of the real images.

        Returns:
            `d_real` and `d_fake`, `(B,)` each. Relativistic: no gradient flows through the other kind's mean.
        """
        reals, fakes = [], []
        for fake, real in zip(_as_scales(fake_logits), _as_scales(real_logits), strict=True):
            fake, real = fake.float(), real.float()
            if self.relativistic:
                fake_mean, real_mean = fake.detach().mean(), real.detach().mean()
                reals.append(0.5 * self._part(real - fake_mean, real=True, critic=True))
                fakes.append(0.5 * self._part(fake - real_mean, real=False, critic=True))
            else:
                reals.append(self._part(real, real=True, critic=True))
                fakes.append(self._part(fake, real=False, critic=True))
        return {"d_real": _mean(reals), "d_fake": _mean(fakes)}

    def _part(self, logits: torch.Tensor, *, real: bool, critic: bool) -> torch.Tensor:
        """`(B,)`: how far logits are from what they should be if they were of real (or of restored) images."""
        logits = logits.float()
        label = self.real_label_val if real else self.fake_label_val
        sign = -1.0 if real else 1.0
        if self.gan_type == "vanilla":
            values = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
        elif self.gan_type == "lsgan":
            values = (logits - label).square()
        elif self.gan_type == "wgan_softplus":
            values = F.softplus(sign * logits)
        elif self.gan_type == "hinge" and critic:
            values = F.relu(1 + sign * logits)
        else:
            values = sign * logits
        return per_sample_mean(values)


def _mean(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)
