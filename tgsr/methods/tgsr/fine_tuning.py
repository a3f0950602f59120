"""Fine-tuning the pre-trained network on one task after the other, without building anything anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tgsr.config.schema import Options
from tgsr.data.batch import Batch
from tgsr.engine.build import build_model
from tgsr.engine.context import Context
from tgsr.losses.base import LossContext
from tgsr.models.base import RestorationModel
from tgsr.tasks.task import TaskSet
from tgsr.tasks.weighting import EqualWeighting
from tgsr.utils.errors import ConfigError

_CHUNK = 16


@dataclass(frozen=True)
class Trace:
    """What one fine-tuning showed.

    Attributes:
        losses: `(iters,)` mean loss of each training batch under the parameters before that step.
        is_finite: False when a loss or gradient was not finite at any step.
    """

    losses: torch.Tensor
    is_finite: bool


class FineTuner:
    """The model of a run, set back to the pre-trained weights and a fresh optimiser as often as needed.

    EMA is off: over the few iterations of a sweep it would hide the change it is to measure.

    Args:
        options: network, losses, optimiser, `path.pretrain_network_g`.
        context: a world of one (`Context.alone`).
        tasks: all tasks.
    """

    def __init__(self, options: Options, context: Context, tasks: TaskSet) -> None:
        if options.train is None:
            raise ConfigError("fine-tuning needs the section train", place=options.name)
        plain = replace(options, train=replace(options.train, ema_decay=0.0))
        self.model: RestorationModel = build_model(plain, context, EqualWeighting(tasks, seed=options.manual_seed))
        self.losses = {name: spec.build().to(context.device) for name, spec in options.train.losses.items()}
        self.start = {
            name: {k: v.detach().clone() for k, v in part.net.state_dict().items()}
            for name, part in self.model.trained().items()
        }

    def reset(self) -> None:
        """Back to theta."""
        self.model.reset(self.start)

    def train(self, iterations: Iterable[Sequence[Batch]], *, first: int = 0) -> Trace:
        """One step on each batch.

        Args:
            iterations: the micro batches of each, whose gradients are accumulated.
            first: number of the first iteration, for the learning rate.
        """
        means, bad = [], []
        for t, batches in enumerate(iterations, first):
            result = self.model.step(list(batches), t)
            means.append(result.total.mean())
            if result.bad is not None:
                bad.append(result.bad.max())
        losses = torch.stack(means).double().cpu()
        finite = bool(torch.isfinite(losses).all()) and not (bad and bool((torch.stack(bad) > 0).any()))
        return Trace(losses, finite)

    @torch.no_grad()
    def loss(self, batch: Batch) -> torch.Tensor:
        """`(B,)` float64 on the CPU: the sum of the generator losses of each sample under the present parameters."""
        assert batch.lq is not None
        parts = [self._loss(slice(i, i + _CHUNK), batch) for i in range(0, len(batch.lq), _CHUNK)]
        return torch.cat(parts).double().cpu()

    def _loss(self, rows: slice, batch: Batch) -> torch.Tensor:
        images: dict[str, Any] = {"gt": batch.gt, "gt_usm": batch.gt_usm}
        context = LossContext(
            outputs={"sr": self.model.restore(batch.lq[rows])},  # type: ignore[index]
            targets={k: v[rows] for k, v in images.items() if v is not None},
            lq=batch.lq[rows],  # type: ignore[index]
            task_ids=batch.task_ids[rows],  # type: ignore[index]
            discriminator=None,
            iteration=0,
        )
        return torch.stack([loss(context).float() for loss in self.losses.values()]).sum(0)
