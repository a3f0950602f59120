"""Trainer: the loop. Batches in, steps, hooks, feedback to whoever chooses tasks, resume."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tgsr.config.options import diff_options, to_plain, write_options
from tgsr.config.schema import Options
from tgsr.data.batch import Batch
from tgsr.engine import build
from tgsr.engine.checkpoint import CheckpointWriter, Experiment, load_state
from tgsr.engine.context import Context
from tgsr.engine.hooks import CheckpointHook, GuardHook, Hook, LogHook, ValidationHook
from tgsr.engine.ledger import TaskLedger
from tgsr.engine.logger import RunLogger
from tgsr.engine.start import record_start, tell_start
from tgsr.engine.train_log import TrainLog
from tgsr.engine.validation import validate
from tgsr.tasks.samplers import Feedback
from tgsr.utils.errors import CheckpointError, ConfigError, Stopped, UserError

logger = logging.getLogger("tgsr")


class Trainer:
    """One training run.

    The run is a sequence of segments. Within one, the weights of all tasks are fixed and the loader prefetches as it
    likes; between two, the task sampler and the loss weighting see what the interval showed.

    Args:
        options: with `network_g`, `datasets.train` and `train`.
        context: this process.
        hooks: in addition to guard, log, validation and checkpoint.
        results: folder of an older run's numbers, moved aside with its experiment; None: this run will write none.
    """

    def __init__(
        self, options: Options, context: Context, *, hooks: Sequence[Hook] = (), results: Path | None = None
    ) -> None:
        if options.train is None or options.datasets.train is None or options.network_g is None:
            raise ConfigError("training needs the sections network_g, datasets.train and train", place=options.name)
        self.options, self.context = options, context
        self.total_iter = options.train.total_iter
        self.experiment = Experiment(options.path.experiments_root, options.name, results=results)
        # configuration
        self.tasks = build.build_training_tasks(options)
        self.sampler = build.build_task_sampler(options, self.tasks)
        self.weighting = build.build_loss_weighting(options, self.tasks)
        self.sampler.check(options)
        _, num_micro = build.micro_batches(options, context.world_size)
        self.weighting.check(replace(options, train=replace(options.train, accumulation_steps=num_micro)))
        # parts
        self.data = build.TrainData(options, context, self.tasks, self.sampler)
        self.model = build.build_model(options, context, self.weighting)
        self.val_sets = build.build_val_sets(options)
        if options.datasets.train.preflight:
            for val_set in self.val_sets.values():
                build.preflight(val_set, context)
        self.metrics = build.build_metrics(options) if self.val_sets else {}  # LPIPS offline stops no training
        build.tell_too_small(self.val_sets, self.metrics, context)
        self.restore = build.build_restorer(options, self.model)
        validation = ValidationHook(every=options.val.val_freq, best=options.logger.best)
        self.hooks: list[Hook] = [
            GuardHook(options.train.on_nan),
            LogHook(every=options.logger.print_freq),
            *hooks,
            *build.build_hooks(options),
            CheckpointHook(every=options.logger.save_checkpoint_freq, before=validation),
            validation,
            CheckpointHook(every=options.logger.save_checkpoint_freq, seconds=options.logger.save_checkpoint_seconds),
        ]
        # state
        self.iteration = 0
        self.interval_ledgers = {name: TaskLedger(self.tasks.names, context) for name in self._adaptive()}
        self.seconds_waiting = 0.0
        self.is_stopping = self.owes_feedback = False
        self.wandb_id: str | None = None

    @property
    def batch_size(self) -> int:
        """Samples per iteration over all ranks and accumulation steps."""
        return self.data.plan.batch_size

    def run(self) -> Path:
        """Train to the last iteration, or until asked to stop.

        Returns:
            The experiment folder, whose files are then on the disk whatever rank asks.
        """
        try:
            return self._run()
        except Exception as error:  # torch tells of a dead loader worker wherever the main thread is
            died = self.data.loader.dead_worker(error)
            raise error if died is None else died from None

    def _run(self) -> Path:
        self._open()
        with self.context.catch_signals(), self.context.stopping(at_once=False):
            try:
                if self.owes_feedback:
                    self._give_feedback()
                for hook in self.hooks:
                    hook.before_train(self)
                while self.iteration < self.total_iter and not self.is_stopping:
                    self._run_segment(self._segment_end())
                for hook in self.hooks:
                    hook.after_train(self)
                self.context.barrier()  # rank 0 has waited for its writer
            finally:
                self.data.close()
                self.log.close()
        return self.experiment.path

    def _run_segment(self, stop: int) -> None:
        """Iterations up to `stop`, then the feedback."""
        for batches in self._timed(self.data.iterations(self.iteration, stop)):
            result = self.model.step(batches, self.iteration)
            self.iteration += 1
            for ledger in self.interval_ledgers.values():
                ledger.add(result)
            self.is_stopping = self.context.should_stop(self.iteration)
            if self.iteration == stop:
                self._give_feedback()
            for hook in self.hooks:
                hook.after_step(self, result, batches)
            if self.is_stopping:
                return

    def _timed(self, batches: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        while True:
            start = time.perf_counter()
            try:
                item = next(batches)
            except StopIteration:
                return
            self.seconds_waiting += time.perf_counter() - start
            yield item

    def _adaptive(self) -> dict[str, Any]:
        parts = {"task_sampler": self.sampler, "loss_weighting": self.weighting}
        return {name: part for name, part in parts.items() if part.interval is not None}

    def _segment_end(self) -> int:
        """The next iteration after which somebody wants feedback, or the last one."""
        ends = [(self.iteration // part.interval + 1) * part.interval for part in self._adaptive().values()]
        return min([self.total_iter, *ends])

    def _give_feedback(self) -> None:
        """The task sampler's and the weighting's; owed to the run that goes on when asked to stop meanwhile."""
        due = {name: part for name, part in self._adaptive().items() if self.iteration % part.interval == 0}
        if not due:
            return
        metrics: dict[str, dict[str, float]] = {}
        if any(part.needs_metrics for part in due.values()):
            try:
                metrics = self._validate_tasks()
            except Stopped:
                self.is_stopping = self.owes_feedback = True
                return
        self.owes_feedback = False
        losses: dict[str, float] = {}
        for name, part in due.items():
            window = self.interval_ledgers[name].read()["tasks"]
            losses = {k: v["loss"] for k, v in window.items()}
            counts = {k: v["count"] for k, v in window.items()}
            part.update(Feedback(iteration=self.iteration, losses=losses, counts=counts, metrics=metrics))
            self.interval_ledgers[name].clear()
        weights = dict(zip(self.tasks.names, self.sampler.weights.tolist(), strict=True))
        self.log.event("tasks", self.iteration, weights=weights, losses=losses, metrics=metrics)

    def _validate_tasks(self) -> dict[str, dict[str, float]]:
        """Every task on the validation set that `val.val_tasks` names."""
        name = self.options.val.val_tasks
        if name is None or name not in self.val_sets:
            raise ConfigError(
                "the task sampler or loss weighting wants validation results of every task",
                place="val.val_tasks",
                remedy=f"name one of the validation sets ({', '.join(self.val_sets) or 'none yet'})",
            )
        return {
            task.name: validate(self.restore, self.val_sets[name], self.metrics, self.context, task=task).means()
            for task in self.tasks
        }

    def weights(self) -> dict[str, dict[str, Any]]:
        """`net_g` -> `{"params", "params_ema"}`, `net_d` -> `{"params"}`: BasicSR's containers."""
        content = {f"net_{k}": {"params": part.net.state_dict()} for k, part in self.model.trained().items()}
        if self.model.ema_g is not None:
            content["net_g"]["params_ema"] = self.model.ema_g.module.state_dict()
        return content

    def state_dict(self) -> dict[str, Any]:
        """All that resume needs. Called on all ranks: the ledger sums over them."""
        return {
            "iteration": self.iteration,
            "model": self.model.state_dict(),
            "task_sampler": self.sampler.state_dict(),
            "loss_weighting": self.weighting.state_dict(),
            "intervals": {name: ledger.state_dict() for name, ledger in self.interval_ledgers.items()},
            "owes_feedback": self.owes_feedback,
            "hooks": {h.name: h.state_dict() for h in self.hooks},
            "options": json.dumps(to_plain(self.options)),
            "world_size": self.context.world_size,
            "num_threads": torch.get_num_threads(),
            "wandb_id": self.wandb_id,
        }

    def save(self, *, with_weights: bool = True) -> None:
        """Checkpoint now, written in the background; without weights files, it holds until the next one."""
        state = self.state_dict()
        if self.context.is_main:
            self.writer.save(self.iteration, self.weights() if with_weights else {}, state)

    def _open(self) -> None:
        """Make or resume the experiment; on rank 0 also its folder, option file and writer."""
        resume = self.context.auto_resume or self.options.path.resume_state is not None
        if self.context.is_main:
            self.experiment.prepare(resume=resume)
            write_options(self.options, self.experiment.path / f"{self.experiment.path.name}.yml")
            log = TrainLog.of_process()
            if log is not None:
                log.open(self.experiment.path)
        self.writer = CheckpointWriter(self.experiment, keep_last=self.options.logger.keep_last)
        self.context.barrier()
        state = self._find_state() if resume else None
        if state is not None:
            self._resume(state)
        self.log = RunLogger(
            self.experiment.path,
            self.options.logger,
            name=self.options.name,
            is_main=self.context.is_main,
            resume_at=self.iteration if resume else None,  # killed before its first checkpoint: all lines come again
            again=["val"] if any(isinstance(h, ValidationHook) and h.is_due(self) for h in self.hooks) else [],
            wandb_id=None if state is None else state.get("wandb_id"),
        )
        self.wandb_id = self.log.wandb_id
        tell_start(self)
        record_start(self)
        if self.log.num_dropped and state is None:
            logger.warning("%s starts from the beginning: no checkpoint of it is left", self.options.name)

    def _find_state(self) -> dict[str, Any] | None:
        """This run's newest with `--auto_resume`, else the one the options name. States after it are set aside."""
        explicit = self.options.path.resume_state
        state = self.experiment.load_newest() if self.context.auto_resume else None
        if state is None and explicit is not None:
            state = load_state(explicit)
        found = self.context.gather([0 if state is None else state["iteration"]])
        if len(set(found)) > 1:
            raise UserError(
                f"the processes see different checkpoints: of iterations {', '.join(map(str, found))}",
                place=str(self.experiment.states),
                remedy="put path.experiments_root on a disk that all nodes share",
            )
        if self.context.is_main:
            self.experiment.set_aside(after=found[0])
        return state

    def _resume(self, state: dict[str, Any]) -> None:
        try:
            for line in diff_options(json.loads(state["options"]), to_plain(self.options)):
                logger.warning("option changed since the checkpoint: %s", line)
            self._take(state)
        except UserError:
            raise
        except (RuntimeError, LookupError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint of iteration {state['iteration']} does not fit the options "
                f"({' '.join(str(error).split())[:200]})",
                place=str(self.experiment.states),
                remedy="resume with the options it was made with, or start another name from its weights "
                "(path.pretrain_network_g)",
            ) from error
        logger.info("resuming %s at iteration %d", self.options.name, self.iteration)
        threads = torch.get_num_threads()
        if self.context.device.type == "cpu" and state.get("num_threads", threads) != threads:
            logger.warning(
                "the checkpoint was made with %d threads, now there are %d: the weights will be equal to rounding only "
                "(num_threads sets them)",
                state["num_threads"],
                threads,
            )
        if state["world_size"] != self.context.world_size:
            logger.warning(
                "the checkpoint was made by %d processes, now there are %d: keep the global batch of %d the same to "
                "see the same samples",
                state["world_size"],
                self.context.world_size,
                self.batch_size,
            )

    def _take(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.sampler.load_state_dict(state["task_sampler"])
        self.weighting.load_state_dict(state["loss_weighting"])
        for name, ledger in self.interval_ledgers.items():
            if name in state["intervals"]:
                ledger.load_state_dict(state["intervals"][name])
        for hook in self.hooks:
            hook.load_state_dict(state["hooks"].get(hook.name, {}) or hook.state_dict())
        self.owes_feedback = state.get("owes_feedback", False)
        self.iteration = state["iteration"]
