"""Loss weightings: how per-sample losses of several tasks become the one number that is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import TaskSet
from tgsr.utils.registry import Registry

if TYPE_CHECKING:
    from tgsr.config.schema import Options

LOSS_WEIGHTINGS = Registry("loss weighting", package="tgsr.tasks")


class LossWeighting(ABC):
    """Reduces per-sample losses to a scalar; same update and state contract as a `TaskSampler`."""

    interval: int | None = None
    needs_metrics: bool = False

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        self.tasks, self.seed = tasks, seed

    @abstractmethod
    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        """Scalar loss of a batch.

        Args:
            losses: `(B,)` total generator loss of each sample, with gradient.
            task_ids: `(B,)` int64 on the same device.
            iteration: counted from 0; the only key of random weightings besides the seed.
        """

    def check(self, options: Options) -> None:  # noqa: B027
        """Refuse a run that does not go with the files this weighting was made from; called once before training."""

    def update(self, feedback: Feedback) -> None:  # noqa: B027
        """Adapt to what the interval showed."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Inverse of `state_dict`."""


@LOSS_WEIGHTINGS.register()
class EqualWeighting(LossWeighting):
    """The plain mean over samples."""

    def reduce(self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int) -> torch.Tensor:
        return losses.mean()
