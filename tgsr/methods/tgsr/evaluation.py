"""How well networks do on each task: the metric I(D_val; theta) of equation 5, for many tasks and several networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tgsr.config.schema import Options
from tgsr.data.batch import Batch
from tgsr.engine.build import build_metrics, build_val_sets, make_restorer
from tgsr.engine.context import Context
from tgsr.methods.tgsr.artefacts import Record
from tgsr.metrics.base import Metric
from tgsr.metrics.measure import measure as measure_pair
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import file_digest
from tgsr.utils.registry import did_you_mean

Restore = Callable[[torch.Tensor], torch.Tensor]
Values = dict[str, float]


def checkpoint_restorer(options: Options, checkpoint: Path | str, context: Context) -> Restore:
    """The network of `network_g` with the weights of a checkpoint, for images of any size.

    Args:
        options: network, precision, tiling.
        checkpoint: weights; their EMA form where there is one.
        context: the device.
    """
    path = replace(options.path, pretrain_network_g=Path(checkpoint))
    return make_restorer(replace(options, path=path, train=None), context)


def check_val_set(options: Options, name: str, *, key: str = "run.val") -> None:
    """ConfigError when there is no validation set called `name`."""
    if name not in options.datasets.val:
        problem, remedy = f"there is no validation set '{name}'", did_you_mean(name, options.datasets.val)
        raise ConfigError(problem, place=f"{options.name}: {key}", remedy=remedy)


def pick_val_set(options: Options, name: str) -> Any:
    """The validation set called `name`; ConfigError when there is none."""
    check_val_set(options, name)
    return build_val_sets(options)[name]


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


def weights_stamp(path: Path | str) -> dict[str, str]:
    """Which weights numbers belong to: the file and a digest of its content, which further training changes."""
    return {"path": str(path), "digest": file_digest(path)}


def pick_metrics(options: Options) -> dict[str, Metric]:
    """The metrics of the options; ConfigError when there is none."""
    metrics = build_metrics(options)
    if not metrics:
        raise ConfigError("no metric is named", place=f"{options.name}: val.metrics", remedy="add psnr: {type: ...}")
    return metrics


def task_images(dataset: Any, task: Task) -> list[Batch]:
    """The validation set of a task: every image degraded by it, always the same; equal sizes as one batch."""
    samples = [dataset.val_sample(i, task) for i in range(len(dataset))]
    by_size: dict[tuple[int, ...], list[Batch]] = {}
    for sample in samples:
        by_size.setdefault(tuple(sample.gt.shape[2:]), []).append(sample)
    return [
        Batch(gt=torch.cat([s.gt for s in part]), lq=torch.cat([s.lq for s in part])) for part in by_size.values()
    ]


def measure(
    restore: Restore,
    images: Sequence[Batch],
    metrics: Mapping[str, Metric],
    *,
    chunk: int = 16,
    device: torch.device | None = None,
) -> Values:
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


@dataclass(frozen=True)
class TaskEvaluation:
    """Work on one task (see `task_pool`): its validation set, restored by every checkpoint, measured by every metric.

    Attributes:
        options: network, metrics, validation sets.
        tasks: all tasks.
        val: name of the validation set.
        checkpoints: label -> weights.
    """

    options: Options
    tasks: TaskSet
    val: str
    checkpoints: Mapping[str, str]

    def open(self, context: Context) -> Callable[[int], Record]:
        dataset, metrics = pick_val_set(self.options, self.val), pick_metrics(self.options)
        restorers = {k: checkpoint_restorer(self.options, v, context) for k, v in self.checkpoints.items()}

        def run(index: int) -> Record:
            start = time.perf_counter()
            task = self.tasks[index]
            images = task_images(dataset, task)
            values = {k: measure(r, images, metrics, device=context.device) for k, r in restorers.items()}
            seconds = round(time.perf_counter() - start, 3)
            return {"task": task.name, "id": task.id, "status": "ok", "values": values, "seconds": seconds}

        return run

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on."""
        spec = self.options.datasets.val[self.val]
        return {
            "val": {"name": self.val, **_plain(spec.to_json())},
            "metrics": {k: {**_plain(s.to_json())} for k, s in self.options.val.metrics.items()},
            "network": _plain(self.options.network_g.to_json()) if self.options.network_g else None,
            "checkpoints": {k: weights_stamp(v) for k, v in self.checkpoints.items()},
        }


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in data.items()}
