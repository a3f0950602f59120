"""How well a network that is being fine-tuned does on a task: the metric I(D_val; theta) of equation 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tgsr.config.schema import Options
from tgsr.data.batch import Batch
from tgsr.metrics.base import Metric
from tgsr.metrics.measure import measure as measure_pair
from tgsr.tasks.task import Task
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

Restore = Callable[[torch.Tensor], torch.Tensor]


def check_val_set(options: Options, name: str, *, key: str = "run.val") -> None:
    """ConfigError when there is no validation set called `name`."""
    if name not in options.datasets.val:
        problem, remedy = f"there is no validation set '{name}'", did_you_mean(name, options.datasets.val)
        raise ConfigError(problem, place=f"{options.name}: {key}", remedy=remedy)


def check_start(options: Options) -> Path:
    """The weights that fine-tuning starts from; ConfigError when none are named."""
    path = options.path.pretrain_network_g
    if path is None:
        raise ConfigError(
            "task grouping fine-tunes a trained network, and none is named",
            place=f"{options.name}: path.pretrain_network_g",
            remedy="name its weights: path: {pretrain_network_g: FILE.pth}",
        )
    return path


def task_images(dataset: Any, task: Task) -> list[Batch]:
    """The validation set of a task: every image degraded by it, always the same; equal sizes as one batch."""
    samples = [dataset.val_sample(i, task) for i in range(len(dataset))]
    by_size: dict[tuple[int, ...], list[Batch]] = {}
    for sample in samples:
        by_size.setdefault(tuple(sample.gt.shape[2:]), []).append(sample)
    return [Batch(gt=torch.cat([s.gt for s in part]), lq=torch.cat([s.lq for s in part])) for part in by_size.values()]


def measure(
    restore: Restore,
    images: Sequence[Batch],
    metrics: Mapping[str, Metric],
    *,
    chunk: int = 16,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Metric -> mean over images.

    Args:
        restore: `(B, 3, h, w)` -> `(B, 3, H, W)`.
        images: see `task_images`.
        metrics: by name.
        chunk: images restored at once.
        device: where metrics that are networks are computed; None: on the CPU.
    """
    totals = dict.fromkeys(metrics, 0.0)
    count = 0
    for batch in images:
        assert batch.gt is not None
        assert batch.lq is not None
        for start in range(0, len(batch.lq), chunk):
            restored = restore(batch.lq[start : start + chunk]).clamp(0, 1)
            for one, gt in zip(restored, batch.gt[start : start + chunk].to(restored.device), strict=True):
                count += 1
                for name, value in measure_pair(metrics, one, gt, device or torch.device("cpu")).items():
                    totals[name] += value
    return {name: total / count for name, total in totals.items()}
