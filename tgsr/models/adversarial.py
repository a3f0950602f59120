"""AdversarialModel: a PixelModel that also plays against a discriminator (SRGAN, ESRGAN, Real-ESRGAN)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from tgsr.archs.base import as_outputs
from tgsr.data.batch import Batch
from tgsr.losses.base import Loss
from tgsr.losses.gan import GANLoss
from tgsr.models.base import ModelParts, StepResult, Trained, not_finite
from tgsr.models.pixel import PixelModel


class AdversarialModel(PixelModel):
    """Generator and discriminator, one step of each per iteration.

    Args:
        net_g, losses, make_optimizer, lr_at, parts: see `PixelModel`; the same schedule serves both networks.
        net_d: `(B, 3, H, W)` -> logits of any shape with B first.
        gan: the game, with the generator's weight.
        make_optimizer_d: parameters -> optimiser of the discriminator.
        net_d_iters: the generator learns every this many iterations.
        net_d_init_iters: iterations at the start in which only the discriminator learns.
    """

    def __init__(
        self,
        net_g: nn.Module,
        losses: Mapping[str, Loss],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        lr_at: Callable[[int, float], float],
        parts: ModelParts,
        *,
        net_d: nn.Module,
        gan: GANLoss,
        make_optimizer_d: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        net_d_iters: int = 1,
        net_d_init_iters: int = 0,
    ) -> None:
        super().__init__(net_g, losses, make_optimizer, lr_at, parts)
        self.net_d = self._place(net_d)
        self._learning_d = [p for p in self.net_d.parameters() if p.requires_grad]  # a pretrained part may be frozen
        self.gan = gan
        self.d = self._make_trained(self.net_d, make_optimizer_d)
        self.net_d_iters, self.net_d_init_iters = net_d_iters, net_d_init_iters

    def trained(self) -> dict[str, Trained]:
        return {"g": self.g, "d": self.d}

    def step(self, batches: Sequence[Batch], iteration: int) -> StepResult:
        self._reseed(iteration)
        for part in (self.g, self.d):
            part.set_lr(iteration, self.parts.warmup_iter)
        generator_learns = iteration % self.net_d_iters == 0 and iteration >= self.net_d_init_iters

        for parameter in self._learning_d:
            parameter.requires_grad_(False)
        if generator_learns:
            losses, restored = self._generator_backward(batches, iteration)
            bad_g, norm_g = self._update(self.g, not_finite(losses.values()))
        else:
            losses, restored = self._generator_look(batches, iteration)
            norm_g = torch.zeros((), device=self.device)
            bad_g = torch.zeros(len(losses) + 1, device=self.device)
        for parameter in self._learning_d:
            parameter.requires_grad_(True)

        scores = self._discriminator_backward(batches, restored)
        bad_d, norm_d = self._update(self.d, not_finite(scores.values()))
        self.precision.end_iteration()
        if self.ema_g is not None and generator_learns:
            self.ema_g.update(self.net_g)
        return StepResult(
            losses=losses,
            total=torch.stack(list(losses.values())).sum(0),
            task_ids=torch.cat([self._loss_context({}, b, iteration).task_ids for b in batches]),
            scalars={"grad_norm": norm_g, "grad_norm_d": norm_d, **{k: v.mean() for k, v in scores.items()}},
            bad=torch.cat([bad_g, bad_d]),
            checks=(*losses, "gradient", *scores, "gradient of the discriminator"),
        )

    def _generator_losses(
        self, outputs: Mapping[str, torch.Tensor], batch: Batch, iteration: int
    ) -> dict[str, torch.Tensor]:
        losses = super()._generator_losses(outputs, batch, iteration)
        real = None
        if self.gan.relativistic:
            with torch.no_grad():
                real = self.net_d(self._real_images(batch)).float()
        losses["gan"] = self.gan.generator(self.net_d(outputs["sr"]).float(), real)
        return losses

    @torch.no_grad()
    def _generator_look(
        self, batches: Sequence[Batch], iteration: int
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Losses and outputs of a generator that does not learn in this iteration."""
        restored, collected = [], []
        for batch in batches:
            with self.precision.autocast():
                outputs = as_outputs(self.net_g(batch.lq))
                collected.append(self._generator_losses(outputs, batch, iteration))
            restored.append(outputs["sr"])
        return {k: torch.cat([c[k] for c in collected]) for k in collected[0]}, restored

    def _discriminator_backward(
        self, batches: Sequence[Batch], restored: Sequence[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Accumulate the discriminator's gradients; returns its losses by name, detached."""
        self.d.optimizer.zero_grad(set_to_none=True)
        collected: dict[str, list[torch.Tensor]] = {}
        for k, (batch, fake) in enumerate(zip(batches, restored, strict=True)):
            with self._exchange(self.d, sync=k == len(batches) - 1):
                with self.precision.autocast():
                    real_logits = self.d.forward(self._real_images(batch)).float()
                    fake_logits = self.d.forward(fake).float()
                    parts = self.gan.discriminator(fake_logits, real_logits)
                loss = torch.stack([p.mean() for p in parts.values()]).sum()
                self.precision.backward(loss / len(batches))
            for name, value in parts.items():
                collected.setdefault(name, []).append(value.detach().reshape(-1))
        return {name: torch.cat(values) for name, values in collected.items()}

    def _real_images(self, batch: Batch) -> torch.Tensor:
        return getattr(batch, self.gan.target)

    def _discriminator(self) -> nn.Module | None:
        return self.net_d
