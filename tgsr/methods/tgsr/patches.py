"""Training patches of single tasks: the same HR patches degraded by one task after the other, or new ones for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from tgsr.config.schema import Options
from tgsr.data.batch import Batch, PendingDegradation
from tgsr.data.plan import SamplePlan
from tgsr.engine.build import batch_noise, wants_usm
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.rng import Shuffles, generator

_CHUNK = 64


class TaskPatches:
    """Makes patches of any task from the run's training set.

    A patch is known by its sample number: image, crop and turn follow from it alone, and a point task draws the same
    noise seed for the same number. So two tasks asked for the same numbers differ in their degradation only (common
    random numbers).

    Args:
        options: the data set, the seed, USM.
        device: where patches are degraded and kept.
        tasks: all tasks.
    """

    def __init__(self, options: Options, device: torch.device, tasks: TaskSet) -> None:
        data = options.datasets.train
        if data is None:
            raise ConfigError("the sweep needs training images", place=f"{options.name}: datasets.train")
        degradation = options.degradation
        self.options, self.tasks, self.device, self.seed = options, tasks, device, options.manual_seed
        self.channels_last = options.channels_last
        self.dataset = data.dataset.build(scale=options.scale, tasks=tasks)
        self.dataset.configure(
            seed=options.manual_seed,
            degrade="device",
            sharpen_input=degradation is not None and degradation.sharpen_input,
            want_usm=wants_usm(options),
        )
        self._images = Shuffles(len(self.dataset), seed=self.seed, stream="sweep-order")
        self._kept: dict[tuple[int, ...], list[Batch]] = {}

    def of(self, task: int, samples: Sequence[int], *, keep: bool) -> Batch:
        """The patches with these sample numbers, degraded by a task.

        Args:
            task: index of the task.
            samples: numbers of the patches.
            keep: remember the HR patches for the next task that asks for the same numbers.
        """
        key = tuple(samples)
        chunks = self._kept.get(key)
        if chunks is None:
            chunks = [self._high(key[i : i + _CHUNK]) for i in range(0, len(key), _CHUNK)]
            if keep:
                self._kept[key] = chunks
        return join([self._degrade(chunk, task) for chunk in chunks])

    def _high(self, samples: Sequence[int]) -> Batch:
        """HR patches, not degraded yet."""
        plans = [SamplePlan(self._images[s], 0, s) for s in samples]
        return self.dataset.collate([self.dataset[plan] for plan in plans])

    def _degrade(self, batch: Batch, task: int) -> Batch:
        assert batch.sample_ids is not None
        assert batch.pending is not None
        space = self.tasks[task].space
        uniforms = np.concatenate(
            [generator(self.seed, "degradation", s).random((1, space.num_uniforms)) for s in batch.sample_ids.tolist()]
        )
        task_ids = np.full(len(uniforms), task, dtype=np.int64)
        ready = replace(
            batch,
            params=space.draw(uniforms),
            task_ids=torch.from_numpy(task_ids),
            pending=PendingDegradation(task_ids, batch.pending.crops),
        )
        # the same noise for all tasks, on any rank
        noise = batch_noise(self.options, self.device, "sweep", int(batch.sample_ids[0]))
        return self.dataset.degrade_on_device(ready.to(self.device, channels_last=self.channels_last), noise)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of all samples; only what training needs is kept."""
    if len(batches) == 1:
        return replace(batches[0], params=None)

    def cat(name: str) -> torch.Tensor | None:
        parts = [getattr(b, name) for b in batches]
        return None if parts[0] is None else torch.cat(parts)

    return Batch(**{name: cat(name) for name in ("gt", "lq", "gt_usm", "task_ids", "sample_ids")})


def rows_of(batch: Batch, rows: Sequence[int], turn: int = 0) -> Batch:
    """Some samples of a batch, all turned alike.

    Args:
        rows: which samples.
        turn: 0 to 7, the symmetries of the square: bit 0 mirrors left-right, bit 1 top-bottom, bit 2 transposes.
    """
    index = torch.tensor(rows, device=batch.lq.device)  # type: ignore[union-attr]

    def cut(image: torch.Tensor | None) -> torch.Tensor | None:
        if image is None:
            return None
        image = image[index]
        dims = [d for d, bit in ((3, 1), (2, 2)) if turn & bit]
        image = image.flip(dims) if dims else image
        return image.transpose(2, 3) if turn & 4 else image

    return Batch(gt=cut(batch.gt), lq=cut(batch.lq), gt_usm=cut(batch.gt_usm), task_ids=batch.task_ids[index])  # type: ignore[index]


def schedule(num_patches: int, batch_size: int, iters: int) -> list[tuple[list[int], int]]:
    """`(rows, turn)` of each iteration: all patches once, then again turned otherwise, and so on.

    Args:
        num_patches: at least `batch_size`; a last incomplete batch of a pass is left out.
        batch_size: samples of an iteration.
        iters: length of the schedule.
    """
    if num_patches < batch_size:
        raise ConfigError(f"{num_patches} patches do not fill a batch of {batch_size}", remedy="raise num_patches")
    per_pass = num_patches // batch_size
    plan = []
    for t in range(iters):
        turn, place = divmod(t, per_pass)
        plan.append((list(range(place * batch_size, (place + 1) * batch_size)), turn % 8))
    return plan
