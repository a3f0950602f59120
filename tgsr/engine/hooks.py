"""Hooks: what happens around a training step. Four moments are enough; each hook is one concern with its own state."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from tgsr.data.batch import Batch
from tgsr.engine.checkpoint import save_torch
from tgsr.engine.ledger import TaskLedger
from tgsr.engine.logger import pretty, progress
from tgsr.engine.samples import FOLDER as SAMPLES
from tgsr.engine.samples import Samples
from tgsr.engine.validation import validate
from tgsr.models.base import StepResult
from tgsr.utils.errors import Stopped, UserError
from tgsr.utils.registry import Registry
from tgsr.utils.text import clock
from tgsr.utils.threads import usable_cpus

if TYPE_CHECKING:
    from tgsr.engine.trainer import Trainer

logger = logging.getLogger("tgsr")
MAX_BAD_STEPS_IN_A_ROW = 10
MAX_BAD_BATCHES = 10
"""Files of bad batches of one rank and start."""
MAX_TASKS_IN_LOG = 64
FIRST_ETA_SECONDS = 10.0


HOOKS = Registry("hook", package="tgsr.engine")
"""Those that an option file may name under `train.hooks`."""


class Hook:
    """Called by the trainer on all ranks; `trainer.iteration` counts finished iterations.

    Attributes:
        name: of its state in checkpoints; for a hook of the option file its name there.
    """

    @property
    def name(self) -> str:
        return getattr(self, "_name", type(self).__name__)

    @name.setter
    def name(self, name: str) -> None:
        self._name = name

    def before_train(self, trainer: Trainer) -> None: ...

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None: ...

    def after_train(self, trainer: Trainer) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives; part of the checkpoint under the hook's class name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class GuardHook(Hook):
    """Finds losses and gradients that are not finite; the step itself has already left the weights alone.

    On a GPU the flags of one iteration are read after the next one has been queued, so that nothing waits.

    Args:
        action: `stop` or `skip`.
    """

    def __init__(self, action: str) -> None:
        self.action = action
        self.num_in_a_row = self.num_written = 0
        self._pending: tuple[int, torch.Tensor, Any, StepResult, Sequence[Batch]] | None = None

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        if result.bad is None:
            return
        if result.bad.device.type == "cpu":
            self._judge(trainer, trainer.iteration, result.bad, result, batches)
            return
        flags = result.bad.to("cpu", non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        previous, self._pending = self._pending, (trainer.iteration, flags, copied, result, batches)
        self._judge_pending(trainer, previous)

    def after_train(self, trainer: Trainer) -> None:
        previous, self._pending = self._pending, None
        self._judge_pending(trainer, previous)

    def _judge_pending(self, trainer: Trainer, pending: Any) -> None:
        if pending is not None:
            iteration, flags, copied, result, batches = pending
            copied.synchronize()
            self._judge(trainer, iteration, flags, result, batches)

    def _judge(
        self, trainer: Trainer, iteration: int, flags: torch.Tensor, result: StepResult, batches: Sequence[Batch]
    ) -> None:
        if not flags.any():
            self.num_in_a_row = 0
            return
        self.num_in_a_row += 1
        names = [name for name, flag in zip(result.checks, flags.tolist(), strict=True) if flag]
        ids = sorted(set(result.task_ids.tolist()))
        tasks = ", ".join(trainer.tasks[i].name for i in ids[:8]) + (" ..." if len(ids) > 8 else "")
        text = f"not finite at iteration {iteration}: {', '.join(names)} (tasks: {tasks}"
        if self.num_written < MAX_BAD_BATCHES:
            self.num_written += 1
            path = trainer.experiment.path / f"bad_batch_{iteration}_rank{trainer.context.rank}.pth"
            save_torch(path, dump_batches(batches))
            text += f"; the batch is in {path}"
        text += ")"
        if self.action == "stop" or self.num_in_a_row > MAX_BAD_STEPS_IN_A_ROW:
            raise UserError(
                text,
                place=trainer.options.name,
                remedy="lower the learning rate, clip gradients (train.clip_grad_norm), or set train.on_nan: skip",
            )
        logger.warning("%s; the step was skipped", text)


def dump_batches(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Batches as tensors on the CPU and primitives, loadable with `weights_only=True` anywhere."""
    return [
        {
            **{
                k: getattr(b, k).cpu()
                for k in ("gt", "lq", "gt_usm", "task_ids", "sample_ids")
                if getattr(b, k) is not None
            },
            "params": None if b.params is None else b.params.to_json(),
            "paths": [str(p) for p in b.paths],
        }
        for b in batches
    ]


class LogHook(Hook):
    """Losses, per-task losses, learning rate, speed and the share of time spent waiting for data."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self.ledger: TaskLedger | None = None
        self._resumed: Mapping[str, Any] = {}
        self._bar: Any = None
        self._told_of_waiting = self._told_eta = False

    def before_train(self, trainer: Trainer) -> None:
        self.ledger = TaskLedger(trainer.tasks.names, trainer.context)
        if self._resumed:
            self.ledger.load_state_dict(self._resumed)
        self._since, self._wait, self._steps = time.perf_counter(), trainer.seconds_waiting, 0
        self._bar = progress(
            range(trainer.total_iter),
            trainer.options.name,
            is_shown=trainer.context.is_main,
            start=trainer.iteration,
            total=trainer.total_iter,
        )

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        self.ledger.add(result)
        self._steps += 1
        self._bar.update()
        self._tell_first_eta(trainer)
        if trainer.iteration % self.every == 0 or trainer.iteration == trainer.total_iter:
            self._write(trainer)

    def after_train(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()

    def state_dict(self) -> dict[str, Any]:
        """A window that a resume cuts goes on, so that its line says the same."""
        return {} if self.ledger is None else self.ledger.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._resumed = state

    def _tell_first_eta(self, trainer: Trainer) -> None:
        """Once, where the first line of the log is still far."""
        seconds = time.perf_counter() - self._since
        if self._told_eta or self._steps < 3 or seconds < FIRST_ETA_SECONDS:
            return
        self._told_eta = True
        if trainer.context.is_main and trainer.iteration % self.every:
            now, total, each = trainer.iteration, trainer.total_iter, seconds / self._steps
            logger.info("iter %d/%d  %.3g s an iteration so far  ETA %s", now, total, each, clock(each * (total - now)))

    def _write(self, trainer: Trainer) -> None:
        window = self.ledger.read()  # the only wait for the device; on all ranks, because it sums over them
        now = time.perf_counter()
        seconds, waited = now - self._since, trainer.seconds_waiting - self._wait
        content = {
            "lr": trainer.model.learning_rate,
            "losses": window["losses"],
            "tasks": window["tasks"] if len(window["tasks"]) <= MAX_TASKS_IN_LOG else {},
            **window["scalars"],
            "images_per_s": self._steps * trainer.batch_size / seconds,
            "data_share": waited / seconds,
            "time": time.time(),
        }
        if trainer.context.device.type == "cuda":
            content["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        trainer.log.event("train", trainer.iteration, **content)
        self.ledger.clear()
        self._since, self._wait, self._steps = now, trainer.seconds_waiting, 0
        if trainer.context.is_main:
            parts = {k: v for k, v in window["scalars"].items() if not k.startswith("grad_norm")}  # d_real, d_fake
            line = pretty({**window["losses"], **parts, "lr": content["lr"], "images/s": content["images_per_s"]})
            self._bar.set_postfix_str(line, refresh=False)
            if self._bar.disable:
                left = (trainer.total_iter - trainer.iteration) * trainer.batch_size / content["images_per_s"]
                logger.info("iter %d/%d  %s  ETA %s", trainer.iteration, trainer.total_iter, line, clock(left))
            if content["data_share"] > 0.2 and seconds > 5 and not self._told_of_waiting:
                self._told_of_waiting = True
                logger.info("%.0f %% of the time went into waiting for data; %s", *_about_waiting(trainer, content))


def _about_waiting(trainer: Trainer, content: Mapping[str, Any]) -> tuple[float, str]:
    """Percent of the time that went into waiting for data, and what would shorten it."""
    workers = trainer.options.datasets.train.num_worker_per_gpu  # type: ignore[union-attr]
    if workers < usable_cpus() // trainer.context.world_size:
        remedy = f"raise datasets.train.num_worker_per_gpu ({workers} now, with {usable_cpus()} CPUs)"
    else:
        remedy = "the CPUs are the limit: pack the images into crops (docs/data.md), or degrade on a GPU"
    return 100 * content["data_share"], remedy


class ValidationHook(Hook):
    """All validation sets every `every` iterations, and the weights that were best so far.

    Args:
        every: iterations; None: after the last one only.
        best: validation set -> metric.
    """

    def __init__(self, *, every: int | None, best: Mapping[str, str]) -> None:
        self.every, self.best = every, dict(best)
        self.records: dict[str, float] = {}
        self.done: int | None = 0
        """Iteration of the last validation; None: of the checkpoint, which came after it (older states)."""

    def is_due(self, trainer: Trainer) -> bool:
        """Whether the weights of this iteration are to be validated and have not been."""
        is_last = trainer.iteration == trainer.total_iter
        is_wanted = is_last or (self.every is not None and trainer.iteration % self.every == 0)
        return is_wanted and bool(trainer.val_sets) and self.done != trainer.iteration

    def before_train(self, trainer: Trainer) -> None:
        """A run that goes on from the checkpoint before a validation makes up for it."""
        if self.done is None:
            self.done = trainer.iteration
        if trainer.iteration > 0 and self.is_due(trainer):
            self._validate(trainer)
            if not trainer.is_stopping:
                trainer.save()

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        if self.is_due(trainer) and not trainer.is_stopping:
            self._validate(trainer)

    def _validate(self, trainer: Trainer) -> None:
        """When asked to stop meanwhile, it is left to the run that goes on."""
        found: dict[str, Mapping[str, float]] = {}
        try:
            for name, dataset in trainer.val_sets.items():
                found[name] = self._validate_set(trainer, name, dataset)
        except Stopped:
            trainer.is_stopping = True
            return
        for name, values in found.items():
            trainer.log.event("val", trainer.iteration, dataset=name, metrics=values)
            logger.info("iter %d  %s: %s", trainer.iteration, name, pretty(values))
            self._keep_best(trainer, name, values)
        self.done = trainer.iteration
        tell = trainer.context.after_validation if trainer.context.is_main else None
        if tell is not None and trainer.experiment.results is not None and trainer.iteration < trainer.total_iter:
            tell(trainer.options)

    @staticmethod
    def _validate_set(trainer: Trainer, name: str, dataset: Any) -> Mapping[str, float]:
        samples = Samples(len(dataset), trainer.options.scale)
        result = validate(trainer.restore, dataset, trainer.metrics, trainer.context, observe=samples.take)
        if trainer.experiment.results is not None:  # trainings inside a stage are not looked at
            folder = trainer.experiment.path / SAMPLES / name
            trainer.log.images(name, trainer.iteration, samples.save(folder, trainer.iteration, trainer.context))
        return result.means()

    def _keep_best(self, trainer: Trainer, name: str, values: Mapping[str, float]) -> None:
        metric = self.best.get(name)
        if metric is None or math.isnan(values.get(metric, math.nan)):
            return
        sign = 1 if trainer.metrics[metric].higher_is_better else -1
        key = f"{name}/{metric}"
        if key not in self.records or sign * values[metric] > sign * self.records[key]:
            self.records[key] = values[metric]
            if trainer.context.is_main:
                shared = list(self.best.values()).count(metric) > 1
                file = f"net_g_best_{name}_{metric}.pth" if shared else f"net_g_best_{metric}.pth"
                trainer.writer.save_named(file, trainer.weights()["net_g"])

    def state_dict(self) -> dict[str, Any]:
        return {"records": dict(self.records), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.records = {key: value for key, value in state["records"].items() if not math.isnan(value)}
        self.done = state.get("done")


class CheckpointHook(Hook):
    """Saves every `every` iterations, at the end, when somebody asks the run to stop, and in between by the clock.

    Args:
        every: iterations.
        seconds: time without a checkpoint after which a state is written that the next checkpoint replaces; None: none.
        before: save only where this validation comes next. It may fail (an image too small for a metric, memory), and
            what was trained must not be lost with it; the checkpoint after it replaces this one.
    """

    def __init__(self, *, every: int, seconds: float | None = None, before: ValidationHook | None = None) -> None:
        self.every, self.seconds, self.before = every, seconds, before
        self._last = time.monotonic()

    def before_train(self, trainer: Trainer) -> None:
        self._last = time.monotonic()

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        if self.before is not None and not self.before.is_due(trainer):
            return
        is_due = trainer.iteration % self.every == 0 or trainer.iteration == trainer.total_iter or trainer.is_stopping
        if is_due or self._is_time(trainer):
            trainer.save(with_weights=is_due)
            self._last = time.monotonic()

    def _is_time(self, trainer: Trainer) -> bool:
        """Rank 0 tells the time; several ranks ask where they wait for each other anyway."""
        context = trainer.context
        if self.seconds is None or (context.world_size > 1 and trainer.iteration % trainer.options.logger.print_freq):
            return False
        is_late = context.is_main and time.monotonic() - self._last >= self.seconds and not trainer.writer.is_writing
        return context.from_main(is_late)

    def after_train(self, trainer: Trainer) -> None:
        trainer.writer.wait()


class StepClock(Hook):
    """What one iteration takes: the mean over all but the first, which compiles and fills caches."""

    def __init__(self) -> None:
        self.seconds_per_step: float | None = None
        self._start = self._steps = 0.0

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        self._steps += 1
        if self._steps == 1:
            self._start = self._now(trainer)

    def after_train(self, trainer: Trainer) -> None:
        if self._steps > 1:
            self.seconds_per_step = (self._now(trainer) - self._start) / (self._steps - 1)

    @staticmethod
    def _now(trainer: Trainer) -> float:
        if trainer.context.device.type == "cuda":
            torch.cuda.synchronize(trainer.context.device)
        return time.perf_counter()
