"""Loss weightings: how per-sample losses of several tasks become the one number that is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from tgsr.tasks.samplers import Feedback
from tgsr.tasks.task import TaskSet
from tgsr.utils.registry import Registry

if TYPE_CHECKING:
    from tgsr.config.schema import Options

LOSS_WEIGHTINGS = Registry("loss weighting", package="tgsr.tasks")


@dataclass(frozen=True, eq=False)
class WholeBatch:
    """The samples of one optimiser step, of which a rank sees its part, and `reduce` one micro batch at a time.

    All ranks call the same methods in the same order: they wait for each other.

    Attributes:
        task_ids: int64, of all micro batches of this rank.
        num_tasks: T.
        world_size: number of ranks that share the step.
        group: of these ranks; None: the default group.
    """

    task_ids: torch.Tensor
    num_tasks: int
    world_size: int = 1
    group: torch.distributed.ProcessGroup | None = None

    @cached_property
    def counts(self) -> torch.Tensor:
        """`(T,)` int64: samples of each task, over all micro batches and ranks."""
        counts = self.task_ids.new_zeros(self.num_tasks)
        return self.over_ranks(counts.index_add(0, self.task_ids, torch.ones_like(self.task_ids)))

    def over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of what the ranks pass, detached."""
        values = values.detach().clone()
        if self.world_size > 1:
            torch.distributed.all_reduce(values, group=self.group)
        return values


class LossWeighting(ABC):
    """Reduces per-sample losses to a scalar; same update and state contract as a `TaskSampler`."""

    interval: int | None = None
    needs_metrics: bool = False

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        self.tasks, self.seed = tasks, seed

    @abstractmethod
    def reduce(
        self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int, whole: WholeBatch | None = None
    ) -> torch.Tensor:
        """Scalar loss of a micro batch; the mean over all micro batches and ranks is what is minimised.

        So the result must not depend on how the samples of a step are cut up: what is not a mean over samples comes
        from `whole`.

        Args:
            losses: `(B,)` total generator loss of each sample, with gradient.
            task_ids: `(B,)` int64 on the same device.
            iteration: counted from 0; the only key of random weightings besides the seed.
            whole: the step that the samples are part of. None: they are all of it.
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

    def reduce(
        self, losses: torch.Tensor, task_ids: torch.Tensor, iteration: int, whole: WholeBatch | None = None
    ) -> torch.Tensor:
        return losses.mean()
