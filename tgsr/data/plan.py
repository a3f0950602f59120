"""Which image, task and random stream every training sample uses: a pure function of the iteration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tgsr.tasks.samplers import TaskSampler
from tgsr.utils.rng import Shuffles


class SamplePlan(NamedTuple):
    """All that a data set needs to make one training sample, in any process.

    Attributes:
        image: index of the ground-truth image.
        task: index of the task.
        sample: position in the whole stream of training samples, the key of crop, flip and parameter draws.
    """

    image: int
    task: int
    sample: int


def split_batch(batch_size: int, ranks: int, largest: int | None = None) -> tuple[int, int]:
    """Images of a micro batch and accumulation steps of a rank: as few steps as can be, all of one size.

    Args:
        batch_size: of all ranks.
        ranks: how many share it.
        largest: images of a micro batch at most. None: any number.

    Raises:
        ValueError: the ranks don't divide the batch.
    """
    each, rest = divmod(batch_size, ranks)
    if rest or not each:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {ranks} ranks")
    steps = next(n for n in range(-(-each // (largest or each)), each + 1) if each % n == 0)
    return each // steps, steps


class BatchPlan:
    """Plans the global batch of any iteration and cuts out one rank's share.

    Args:
        num_images: size of the data set; every image occurs once before any occurs again.
        batch_size: samples of the global batch, over all ranks and accumulation steps.
        sampler: chooses the tasks.
        seed: the run's seed.
        rank, world_size: this process and how many there are.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        sampler: TaskSampler,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(f"a global batch of {batch_size} cannot be shared by {world_size} ranks")
        self.num_images, self.batch_size, self.sampler, self.seed = num_images, batch_size, sampler, seed
        self.rank, self.world_size = rank, world_size
        self._images = Shuffles(num_images, seed=seed, stream="order")

    def global_batch(self, iteration: int) -> list[SamplePlan]:
        """The whole batch of `iteration` (counted from 0)."""
        first = iteration * self.batch_size
        tasks = self.sampler.draw(iteration, self.batch_size)
        return [
            SamplePlan(self._images[first + j], int(task), first + j) for j, task in enumerate(tasks)
        ]

    def local_batch(self, iteration: int) -> list[SamplePlan]:
        """This rank's share: every world_size-th sample, so that accumulation steps split alike on all ranks."""
        return self.global_batch(iteration)[self.rank :: self.world_size]


class PlanBatchSampler:
    """A `batch_sampler` for torch's DataLoader over iterations `[start, stop)`, in micro batches.

    Args:
        plan: the plan.
        num_micro: accumulation steps; each iteration yields that many batches.
    """

    def __init__(self, plan: BatchPlan, *, num_micro: int = 1) -> None:
        self.plan, self.num_micro = plan, num_micro
        self.start, self.stop = 0, 0

    def set_range(self, start: int, stop: int) -> None:
        """The iterations of the next pass over the loader: up to the next update of the task sampler."""
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[list[SamplePlan]]:
        for iteration in range(self.start, self.stop):
            local = self.plan.local_batch(iteration)
            size = len(local) // self.num_micro
            for k in range(self.num_micro):
                yield local[k * size : (k + 1) * size]

    def __len__(self) -> int:
        return (self.stop - self.start) * self.num_micro
