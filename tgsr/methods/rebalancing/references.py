"""Single-task references: one network for each task, trained from the same start (Controlled Data Rebalancing, A.4)."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tgsr.config.options import options_hash, to_plain
from tgsr.config.schema import Options, TaskOptions, TaskSetSpec
from tgsr.config.spec import Kind, PositiveInt, Spec
from tgsr.data.batch import Batch
from tgsr.degradations.base import Space
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.trainer import Trainer
from tgsr.engine.validation import validate
from tgsr.models.base import StepResult
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import (
    append_jsonl,
    check_schema,
    file_digest,
    read_json,
    read_jsonl,
    to_json,
    write_atomic,
    write_json,
)

logger = logging.getLogger("tgsr")
SCHEMA, VERSION = "tgsr.references", 1
SECONDS_BETWEEN_LOOKS = 2.0
Curve = dict[int, dict[str, float]]
"""Iteration -> metric -> value."""
_TASK_SETS = Kind("tgsr.tasks.sets:TASK_SETS", runtime=("space",))

COMPARED = {
    "scale": "scale",
    "network": "network",
    "start": "start (path.pretrain_network_g)",
    "train_data": "training set",
    "val_data": "validation set (val.val_tasks)",
    "metrics": "metrics",
}
"""What references and the run that uses them must have in common."""


def protocol_of(options: Options) -> dict[str, Any]:
    """What the curve of a reference depends on, as JSON; `COMPARED` names the parts that a run must share."""
    train, data = options.train, options.datasets.train
    if train is None or data is None or options.network_g is None:
        problem = "references are trainings: network_g, datasets.train and train are needed"
        raise ConfigError(problem, place=options.name)
    name = options.val.val_tasks
    if name is None or name not in options.datasets.val:
        raise ConfigError(
            "PSNR distances need a validation set that every task degrades",
            place=f"{options.name}: val.val_tasks",
            remedy=f"name one of the validation sets ({', '.join(options.datasets.val) or 'none yet'})",
        )
    if not options.val.metrics:
        raise ConfigError("there is no metric", place=f"{options.name}: val.metrics", remedy="add psnr: {type: PSNR}")
    content = {
        "scale": options.scale,
        "network": options.network_g,
        "start": _start(options),
        "train_data": data.dataset,
        "val_data": options.datasets.val[name],
        "metrics": options.val.metrics,
        "train": {k: getattr(train, k) for k in ("losses", "optim_g", "scheduler", "warmup_iter", "ema_decay")},
        "batch_size": data.batch_size or data.batch_size_per_gpu,
    }
    return json.loads(to_json(to_plain(content)))


def _start(options: Options) -> str:
    """Digest of the initial weights: of the file, or of what makes them."""
    path = options.path.pretrain_network_g
    if path is None:
        return f"seed {options.manual_seed}"
    if not path.is_file():
        raise DataError("no such file", place=f"{options.name}: path.pretrain_network_g = {path}")
    return file_digest(path)


@dataclass(frozen=True)
class References:
    """The content of a `references.json`.

    Attributes:
        place: the file.
        interval: iterations between two values of a curve.
        protocol: see `protocol_of`.
        ids: task -> task id.
        curves: task -> curve on the task's validation set; iteration 0 is the common start.
        weights: task -> file of its last weights.
    """

    place: str
    interval: int
    protocol: Mapping[str, Any]
    ids: Mapping[str, str]
    curves: Mapping[str, Curve]
    weights: Mapping[str, str]

    @staticmethod
    def load(path: Path | str) -> References:
        """Read the file; DataError for another schema or version."""
        data = read_json(path)
        check_schema(data, SCHEMA, path, version=VERSION, made_by="SingleTaskReferences")
        tasks = data["tasks"]
        return References(
            str(path),
            data["interval"],
            data["protocol"],
            {k: v["id"] for k, v in tasks.items()},
            {k: {int(i): m for i, m in v["curve"].items()} for k, v in tasks.items()},
            {k: v["weights"] for k, v in tasks.items()},
        )

    def check_tasks(self, tasks: TaskSet) -> None:
        """DataError when a task has no reference, or one of the same name but another degradation."""
        for task in tasks:
            if task.name not in self.ids:
                raise DataError(
                    f"task '{task.name}' has no single-task reference (there are: {', '.join(self.ids)})",
                    place=self.place,
                    remedy="train the references on the same tasks section",
                )
            if self.ids[task.name] != task.id:
                raise DataError(
                    f"the reference of task '{task.name}' is of another degradation",
                    place=self.place,
                    remedy="train the references on the same degradation.space and tasks.set",
                )

    def check_run(self, options: Options, *, interval: int, metric: str) -> None:
        """DataError when the references do not fit a run: other network, start, data, metric or intervals."""
        ours = protocol_of(options)
        for key, name in COMPARED.items():
            if key == "metrics":
                theirs, mine = self.protocol[key].get(metric), ours[key].get(metric)
                if mine is None:
                    raise ConfigError(f"there is no metric '{metric}'", place=f"{options.name}: val.metrics")
            else:
                theirs, mine = self.protocol[key], ours[key]
            if theirs != mine:
                raise DataError(
                    f"the references have another {name}: {_short(theirs)} there, {_short(mine)} here",
                    place=self.place,
                    remedy="train references for this run, or use the options they were trained with",
                )
        if self.protocol["train"] != ours["train"]:
            logger.warning("%s: trained with another optimiser, schedule or loss than %s", self.place, options.name)
        assert options.train is not None
        for iteration in range(interval, options.train.total_iter + 1, interval):
            for name in self.curves:
                self.at(name, iteration, metric)

    def at(self, task: str, iteration: int, metric: str) -> float:
        """The metric of a task's own network after so many iterations; DataError when it was not measured then."""
        curve = self.curves[task]
        if iteration not in curve:
            have = ", ".join(map(str, sorted(curve)[-3:]))
            raise DataError(
                f"the reference of task '{task}' has no value at iteration {iteration} (interval {self.interval}, "
                f"the last are {have})",
                place=self.place,
                remedy="use a multiple of its interval, or train the references longer",
            )
        if metric not in curve[iteration]:
            raise DataError(f"the reference of task '{task}' has no metric '{metric}'", place=self.place)
        return curve[iteration][metric]

    def gains(self, metric: str) -> dict[str, float]:
        """Task -> what its own network gained from the start to its last iteration."""
        return {name: c[max(c)][metric] - c[0][metric] for name, c in self.curves.items()}


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 160 else text[:157] + "..."


class CurveHook(Hook):
    """Validates a run on the set of its one task, at the start and after every interval -> `curve.jsonl`.

    Args:
        task: the task.
        dataset: validation set.
        interval: iterations between validations.
        header: identifies the training; a file with another one is refused.
    """

    def __init__(self, task: Task, dataset: Any, *, interval: int, header: Mapping[str, Any]) -> None:
        self.task, self.dataset, self.interval, self.header = task, dataset, interval, dict(header)

    def before_train(self, trainer: Trainer) -> None:
        self.path = trainer.experiment.path / "curve.jsonl"
        kept = read_curve(self.path, self.header) if self.path.exists() else {}
        kept = {i: v for i, v in kept.items() if i <= trainer.iteration}
        lines = [self.header, *({"iteration": i, "metrics": v} for i, v in kept.items())]
        write_atomic(self.path, lambda f: f.write("".join(to_json(x) + "\n" for x in lines).encode()))
        if trainer.iteration not in kept and trainer.iteration % self.interval == 0:
            self._measure(trainer)

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        if trainer.iteration % self.interval == 0 or trainer.iteration == trainer.total_iter:
            self._measure(trainer)

    def _measure(self, trainer: Trainer) -> None:
        result = validate(trainer.restore, self.dataset, trainer.metrics, trainer.context, task=self.task)
        append_jsonl(self.path, {"iteration": trainer.iteration, "metrics": result.means()})


def read_curve(path: Path, header: Mapping[str, Any]) -> Curve:
    """A `curve.jsonl`; DataError when it is of another training."""
    records = list(read_jsonl(path))
    if records and records[0] != json.loads(to_json(header)):
        raise DataError(
            "this reference was trained with other options",
            place=str(path),
            remedy="remove its folder, or give the stage another name",
        )
    return {r["iteration"]: r["metrics"] for r in records[1:]}


@RUNNERS.register()
class SingleTaskReferences(Runner):
    """Trains one network for each task of the option file, all from the same start -> `references.json`.

    `train` is the training of each: the paper fine-tunes RealESRNet for 400,000 iterations with a checkpoint every
    5,000. Ranks share the tasks. Every training is a run of its own below this stage's folder and resumes by itself.

    Args:
        interval: iterations between two checkpoints and validations on the set that `val.val_tasks` names.
        tasks: names of the tasks to train. None: all of them.
        keep_last: checkpoints of each reference to keep. None: all.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        interval: PositiveInt = 5000,
        tasks: list[str] | None = None,
        keep_last: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.interval, self.names, self.keep_last = interval, tasks, keep_last

    def run(self) -> None:
        protocol = protocol_of(self.options)
        tasks = build.build_tasks(self.options)
        if self.names is not None:
            tasks = tasks.subset(self.names)
        headers = {task.name: self._header(task, protocol) for task in tasks}
        for task in list(tasks)[self.context.rank :: self.context.world_size]:
            if not self._train(task, headers[task.name]):
                self.context.stop_requested = True
                return
        assert self.options.train is not None
        last = self.options.train.total_iter
        for name in tasks.names:
            while last not in self._curve(name, headers[name]):  # another rank is still at it
                if self.context.stop_requested:
                    return
                time.sleep(SECONDS_BETWEEN_LOOKS)
        if self.context.is_main:
            self._write(tasks, headers, protocol)
        self.context.barrier()

    def _header(self, task: Task, protocol: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "schema": "tgsr.reference_curve",
            "version": VERSION,
            "task": task.name,
            "id": task.id,
            "seed": self.options.manual_seed,
            "options": options_hash(self._training()),
            "protocol": protocol,
        }

    def _training(self) -> Options:
        """The options without those that say which networks this start trains and how many files it keeps."""
        spec = self.options.run
        assert spec is not None
        kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("tasks", "keep_last")}
        return replace(self.options, run=replace(spec, kwargs=kwargs))

    def _curve(self, name: str, header: Mapping[str, Any]) -> Curve:
        path = self.folder / name / "curve.jsonl"
        return read_curve(path, header) if path.exists() else {}

    def _train(self, task: Task, header: Mapping[str, Any]) -> bool:
        """Train the network of one task; False when asked to stop."""
        options = self.options
        assert options.train is not None
        if options.train.total_iter in self._curve(task.name, header) and self._weights(task.name).exists():
            return True
        lonely = replace(self.context.alone(), auto_resume=True)
        assert options.val.val_tasks is not None
        space = TaskSet([task])
        dataset = options.datasets.val[options.val.val_tasks].build(scale=options.scale, tasks=space)
        hook = CurveHook(task, dataset, interval=self.interval, header=header)
        trainer = Trainer(reference_options(options, task, self.interval, self.keep_last), lonely, hooks=[hook])
        logger.info("reference of task %s", task.name)
        trainer.run()
        return not trainer.is_stopping

    def _weights(self, name: str) -> Path:
        return self.folder / name / "models" / "net_g_latest.pth"

    def _write(self, tasks: TaskSet, headers: Mapping[str, Any], protocol: Mapping[str, Any]) -> None:
        content = {
            "schema": SCHEMA,
            "version": VERSION,
            "seed": self.options.manual_seed,
            "options": options_hash(self.options),
            "interval": self.interval,
            "protocol": protocol,
            "tasks": {
                t.name: {
                    "id": t.id,
                    "weights": str(self._weights(t.name)),
                    "curve": {str(i): v for i, v in sorted(self._curve(t.name, headers[t.name]).items())},
                }
                for t in tasks
            },
        }
        write_json(self.folder / "references.json", content)
        tasks.save(self.folder / "tasks.json")
        logger.info("%s: %d tasks", self.folder / "references.json", len(tasks))


def reference_options(options: Options, task: Task, interval: int, keep_last: int | None) -> Options:
    """The options of one task's training, an experiment of its own below the stage's folder."""
    parent = options.tasks.set
    spec = None if parent is None else Spec(_TASK_SETS, "Named", {"parent": parent, "names": [task.name]})
    return replace(
        options,
        name=f"{options.name}/{task.name}",
        run=None,
        tasks=TaskOptions(set=spec),
        datasets=replace(options.datasets, val={}),
        val=replace(options.val, val_tasks=None),
        path=replace(options.path, resume_state=None),
        logger=replace(
            options.logger, save_checkpoint_freq=interval, keep_last=keep_last, best={}, use_tb_logger=False, wandb=None
        ),
    )


@TASK_SETS.register("Named")
def named_subset(*, space: Space | None, parent: TaskSetSpec, names: list[str]) -> TaskSet:
    """Some tasks of another set, by name.

    Args:
        space: the run's space.
        parent: the task set.
        names: which, in this order.
    """
    return parent.build(space=space).subset(names)
