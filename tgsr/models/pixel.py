"""PixelModel: one network, any sum of named losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from tgsr.archs.base import as_outputs
from tgsr.data.batch import Batch
from tgsr.losses.base import Loss, LossContext
from tgsr.models.base import ModelParts, RestorationModel, StepResult, Trained, not_finite
from tgsr.tasks.weighting import WholeBatch
from tgsr.utils.errors import ConfigError


class PixelModel(RestorationModel):
    """Minimises the weighted sum of generator losses.

    Args:
        net_g: the network.
        losses: by name; their weights are inside them.
        make_optimizer: parameters -> optimiser.
        lr_at: `(iteration, base_lr) -> lr`.
        parts: see `ModelParts`.
    """

    def __init__(
        self,
        net_g: nn.Module,
        losses: Mapping[str, Loss],
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        lr_at: Callable[[int, float], float],
        parts: ModelParts,
    ) -> None:
        super().__init__(net_g, parts)
        self.losses = {name: self.precision.hold_frozen(loss.to(self.device)) for name, loss in losses.items()}
        self.lr_at = lr_at
        self.g = self._make_trained(self.net_g, make_optimizer)

    def _make_trained(
        self, net: nn.Module, make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    ) -> Trained:
        optimizer = make_optimizer([p for p in net.parameters() if p.requires_grad])
        return Trained(net, self._train_form(net), optimizer, optimizer.param_groups[0]["lr"], self.lr_at)

    def trained(self) -> dict[str, Trained]:
        return {"g": self.g}

    def step(self, batches: Sequence[Batch], iteration: int) -> StepResult:
        self._reseed(iteration)
        self.g.set_lr(iteration, self.parts.warmup_iter)
        losses, _ = self._generator_backward(batches, iteration)
        bad, norm = self._update(self.g, not_finite(losses.values()))
        self.precision.end_iteration()
        if self.ema_g is not None:
            self.ema_g.update(self.net_g)
        return StepResult(
            losses=losses,
            total=torch.stack(list(losses.values())).sum(0),
            task_ids=torch.cat([_task_ids(b) for b in batches]),
            scalars={"grad_norm": norm},
            bad=bad,
            checks=(*losses, "gradient"),
        )

    def _generator_backward(
        self, batches: Sequence[Batch], iteration: int
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Accumulate the generator's gradients; returns its per-sample losses and its detached outputs."""
        self.g.optimizer.zero_grad(set_to_none=True)
        weighting = self.parts.weighting
        task_ids = [_task_ids(b) for b in batches]
        whole = WholeBatch(torch.cat(task_ids), len(weighting.tasks), self.parts.world_size, self.parts.group)
        collected: dict[str, list[torch.Tensor]] = {}
        restored = []
        for k, batch in enumerate(batches):
            with self._exchange(self.g, sync=k == len(batches) - 1):
                with self.precision.autocast():
                    outputs = as_outputs(self.g.forward(batch.lq))
                    losses = self._generator_losses(outputs, batch, iteration)
                total = torch.stack(list(losses.values())).sum(0)
                loss = weighting.reduce(total, task_ids[k], iteration, whole)
                self.precision.backward(loss / len(batches))
            for name, value in losses.items():
                collected.setdefault(name, []).append(value.detach())
            restored.append(outputs["sr"].detach())
        return {name: torch.cat(values) for name, values in collected.items()}, restored

    def _generator_losses(
        self, outputs: Mapping[str, torch.Tensor], batch: Batch, iteration: int
    ) -> dict[str, torch.Tensor]:
        """Name -> `(B,)`, with gradient.

        Raises:
            ConfigError: the network's output has another size than the target, or a loss is not one value per sample.
        """
        _check_size(self.net_g, outputs["sr"], batch)
        context = self._loss_context(outputs, batch, iteration)
        values = {name: loss(context) for name, loss in self.losses.items()}
        for name, value in values.items():
            _check_per_sample(name, self.losses[name], value, len(outputs["sr"]))
        return {name: value.float() for name, value in values.items()}

    def _loss_context(self, outputs: Mapping[str, torch.Tensor], batch: Batch, iteration: int) -> LossContext:
        targets = {"gt": batch.gt, "gt_usm": batch.gt_usm}
        return LossContext(
            outputs=outputs,
            targets={k: v for k, v in targets.items() if v is not None},
            lq=batch.lq,  # type: ignore[arg-type]
            task_ids=_task_ids(batch),
            discriminator=self._discriminator(),
            iteration=iteration,
            averaged=None if self.ema_g is None else lambda: self._averaged(batch),
        )

    @torch.no_grad()
    def _averaged(self, batch: Batch) -> torch.Tensor:
        """Output of the averaged generator, which is always in eval mode."""
        assert self.ema_g is not None
        return as_outputs(self.ema_g.module(batch.lq))["sr"]

    def _discriminator(self) -> nn.Module | None:
        """What losses may judge the outputs with; its parameters are frozen while they do."""
        return None


def _check_size(net: nn.Module, restored: torch.Tensor, batch: Batch) -> None:
    if batch.gt is None or batch.lq is None or restored.shape == batch.gt.shape:
        return
    made, given, wanted = ("x".join(map(str, t.shape[1:])) for t in (restored, batch.lq, batch.gt))
    raise ConfigError(
        f"{type(net).__name__} makes {made} of {given}, but the ground truth is {wanted}: "
        f"the scale is {batch.gt.shape[-1] // batch.lq.shape[-1]}",
        place="network_g",
        remedy="make the network's output scale times its input (channels x height x width)",
    )


def _check_per_sample(name: str, loss: nn.Module, value: object, num: int) -> None:
    shape = tuple(value.shape) if isinstance(value, torch.Tensor) else None
    if shape != (num,):
        returned = f"a {type(value).__name__}" if shape is None else f"a tensor of shape {shape}"
        raise ConfigError(
            f"{type(loss).__name__} returns {returned}, but one value for each of {num} samples is wanted, {(num,)}",
            place=f"train.losses.{name}",
            remedy="take the mean over all dimensions but the first",
        )


def _task_ids(batch: Batch) -> torch.Tensor:
    if batch.task_ids is not None:
        return batch.task_ids
    return torch.zeros(len(batch.lq), dtype=torch.int64, device=batch.lq.device)  # type: ignore[arg-type, union-attr]
