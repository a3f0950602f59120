"""True gains: PSNR distances of the pre-trained network to networks fine-tuned on single tasks (Figs. 1, 6, 8, 10)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.engine.build import TrainData, build_metrics
from tgsr.engine.checkpoint import save_torch
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.tgsr.artefacts import GAINS, load_indicators, result_hash, weights_stamp
from tgsr.methods.tgsr.evaluation import check_start, check_val_set, measure, task_images
from tgsr.methods.tgsr.fine_tuning import FineTuner
from tgsr.methods.tgsr.sweep import task_iterations
from tgsr.methods.tgsr.task_sets import neighbourhood
from tgsr.study.journal import Journal, Record
from tgsr.study.measure import open_set, usable_metrics, with_metrics
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.samplers import TaskSampler
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, Stopped

logger = logging.getLogger("tgsr")


class OneTaskSampler(TaskSampler):
    """Always the task `index`, which may be changed between runs over the data."""

    index = 0

    @property
    def weights(self) -> np.ndarray:
        return np.eye(len(self.tasks))[self.index]

    def draw(self, iteration: int, num: int) -> np.ndarray:
        return np.full(num, self.index, dtype=np.int64)


@dataclass(frozen=True)
class GainWork:
    """Work on one task (see `study.pool`): fine-tune on it, measure before and after on its validation set.

    Attributes:
        options: of the run.
        tasks: what is measured.
        train_tasks: what is trained on: the same tasks, or their neighbourhoods.
        val: name of the validation set.
        metrics: names of those to measure.
        keep_weights: folder for the fine-tuned networks, or None.
    """

    options: Options
    tasks: TaskSet
    train_tasks: TaskSet
    val: str
    metrics: Sequence[str]
    keep_weights: Path | None

    def open(self, context: Context) -> Callable[[str], Record]:
        sampler = OneTaskSampler(self.train_tasks, seed=self.options.manual_seed)
        data = TrainData(self.options, context, self.train_tasks, sampler)
        tuner = FineTuner(self.options, context, self.train_tasks)
        dataset, metrics = open_set(self.options, self.val), build_metrics(with_metrics(self.options, self.metrics))
        assert self.options.train is not None
        iters = self.options.train.total_iter

        def run(name: str) -> Record:
            start, index = time.perf_counter(), self.tasks.index(name)
            task = self.tasks[index]
            images = task_images(dataset, task)
            tuner.reset()
            before = measure(tuner.model.restore, images, metrics, device=context.device)
            sampler.index = index
            trace = tuner.train(data.iterations(0, iters))
            after = measure(tuner.model.restore, images, metrics, device=context.device)
            if self.keep_weights is not None:
                net = tuner.model.trained()["g"].net
                save_torch(self.keep_weights / f"{task.name}.pth", {"params": net.state_dict()})
            return {
                "task": task.name,
                "id": task.id,
                "status": "ok" if trace.is_finite else "diverged",
                "before": before,
                "after": after,
                **{f"gain_{m}": after[m] - before[m] for m in metrics},
                "seconds": round(time.perf_counter() - start, 3),
            }

        return run


def spread_over(names: list[str], values: dict[str, float], num: int) -> list[str]:
    """`num` names evenly over the order of their values, both ends included; names without a finite value left out."""
    ordered = sorted((n for n in names if np.isfinite(values[n])), key=lambda n: values[n])
    if num >= len(ordered):
        return ordered
    return [ordered[i] for i in np.unique(np.linspace(0, len(ordered) - 1, num).round().astype(int))]


@RUNNERS.register()
class SingleTaskGains(Stage):
    """Fine-tunes the pre-trained network on single tasks for `train.total_iter` iterations -> `gains.jsonl`.

    Args:
        tasks: `tasks.json`.
        val: name of the validation set, degraded by each task.
        num_tasks: how many tasks. None: all.
        order: which: the `first` of the file (random ones, Fig. 1), `spread` evenly over the indicator, or those with
            the `lowest` or the `highest` indicator (Fig. 6).
        indicators: `indicators.jsonl`, for every order but `first`.
        radius: train on a small range of similar degradations around each task instead of the task itself (Fig. 8):
            half the width, as a part of each parameter's range.
        keep_weights: keep every fine-tuned network.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "gains.jsonl"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_tasks": 2}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path,
        val: str,
        num_tasks: PositiveInt | None = None,
        order: Literal["first", "spread", "lowest", "highest"] = "first",
        indicators: Path | None = None,
        radius: Annotated[float, Range(0, 1)] | None = None,
        keep_weights: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        if options.train is None or options.datasets.train is None or options.degradation is None:
            raise ConfigError("needs the sections train, datasets.train and degradation", place=options.name)
        check_start(options)
        check_val_set(options, val)
        if order != "first" and indicators is None:
            raise ConfigError(f"order '{order}' needs indicators", place=f"{options.name}: run.indicators")
        self.path, self.val, self.num_tasks, self.order = tasks, val, num_tasks, order
        self.indicators, self.radius, self.keep_weights, self.processes = indicators, radius, keep_weights, processes

    def units(self) -> tuple[float, str]:
        assert self.options.train is not None, "checked by the constructor"
        return task_iterations(self.path, self.options.train.total_iter, self.num_tasks)

    def work(self) -> None:
        assert self.options.degradation is not None, "checked by the constructor"
        space = self.options.degradation.space.build()
        everything = load_tasks(self.path, space=space)
        tasks = train_tasks = everything.subset(self._choose(everything))
        if self.radius is not None:
            train_tasks = TaskSet([Task(t.name, neighbourhood(t, space, radius=self.radius)) for t in tasks])
        metrics, left_out = usable_metrics(self.options, self.context)
        for name, why in left_out.items():
            logger.warning("metric '%s' is left out: %s", name, why)
        weights = self.folder / "models" if self.keep_weights else None
        plain = replace(self.options, tasks=replace(self.options.tasks, set=None))
        work = GainWork(plain, tasks, train_tasks, self.val, metrics, weights)
        journal = self._journal(tasks)
        if not run_all(work, tasks.names, journal, self.context, processes=self.processes, label=self.options.name):
            raise Stopped
        if self.context.is_main:
            journal.merge(tasks.names)

    def _choose(self, tasks: TaskSet) -> list[str]:
        num = min(self.num_tasks or len(tasks), len(tasks))
        if self.order == "first":
            return tasks.names[:num]
        assert self.indicators is not None
        z = load_indicators(self.indicators, tasks=tasks).values("z")
        if self.order == "spread":
            return spread_over(tasks.names, z, num)
        ordered = spread_over(tasks.names, z, len(tasks))
        return ordered[:num] if self.order == "lowest" else ordered[-num:]

    def _journal(self, tasks: TaskSet) -> Journal:
        protocol: dict[str, Any] = {
            "order": self.order,
            "radius": self.radius,
            "val": self.val,
            "pretrained": weights_stamp(check_start(self.options)),
            "option_file": result_hash(self.options),
        }
        path, seed = self.folder / self.product, self.options.manual_seed
        return Journal(path, schema=GAINS, protocol=protocol, seed=seed, tasks=tasks.digest)
