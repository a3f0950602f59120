"""Single-task references: one network for each task, trained from the same start (Controlled Data Rebalancing, A.4)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from tgsr.config.options import options_hash, to_plain
from tgsr.config.schema import Options, TaskSetSpec
from tgsr.config.spec import PositiveInt
from tgsr.data.batch import Batch
from tgsr.degradations.base import Space
from tgsr.engine import build
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.hooks import Hook
from tgsr.engine.runner import RUNNERS
from tgsr.engine.smallest import with_arguments
from tgsr.engine.trainer import Trainer
from tgsr.engine.validation import validate
from tgsr.models.base import StepResult
from tgsr.study import subrun
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.journal import Journal, Record
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped
from tgsr.utils.files import append_jsonl, file_digest, read_jsonl, to_json, write_atomic

logger = logging.getLogger("tgsr")
Curve = dict[int, dict[str, float]]
"""Iteration -> metric -> value."""

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


@dataclass(frozen=True, kw_only=True)
class References(Artefact):
    """The content of a `references.json`.

    Attributes:
        interval: iterations between two values of a curve.
        protocol: see `protocol_of`.
        tasks: task -> `id`; `weights`, the file of its last ones; `curve`, on the task's validation set: iteration
            (0 is the common start) -> metric -> value.
        place: the file.
    """

    schema: ClassVar[str] = "tgsr.references"
    made_by: ClassVar[str] = "SingleTaskReferences"

    interval: int
    protocol: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    place: str = ""

    @property
    def ids(self) -> dict[str, str]:
        """Task -> task id."""
        return {name: entry["id"] for name, entry in self.tasks.items()}

    @property
    def weights(self) -> dict[str, str]:
        """Task -> file of its last weights."""
        return {name: entry["weights"] for name, entry in self.tasks.items()}

    @property
    def curves(self) -> dict[str, Curve]:
        """Task -> curve."""
        return {name: {int(i): m for i, m in entry["curve"].items()} for name, entry in self.tasks.items()}

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in super().to_json().items() if k != "place"}

    @classmethod
    def load(cls, path: Path | str, **checks: Any) -> References:
        return replace(super().load(path, **checks), place=str(path))

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
            for name in self.tasks:
                self.at(name, iteration, metric)

    def at(self, task: str, iteration: int, metric: str) -> float:
        """The metric of a task's own network after so many iterations; DataError when it was not measured then."""
        curve = self.tasks[task]["curve"]
        if str(iteration) not in curve:
            have = ", ".join(map(str, sorted(map(int, curve))[-3:]))
            raise DataError(
                f"the reference of task '{task}' has no value at iteration {iteration} (interval {self.interval}, "
                f"the last are {have})",
                place=self.place,
                remedy="use a multiple of its interval, or train the references longer",
            )
        if metric not in curve[str(iteration)]:
            raise DataError(f"the reference of task '{task}' has no metric '{metric}'", place=self.place)
        return curve[str(iteration)][metric]

    def gains(self, metric: str) -> dict[str, float]:
        """Task -> what its own network gained from the start to its last iteration."""
        return {name: c[max(c)][metric] - c[0][metric] for name, c in self.curves.items()}


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 160 else text[:157] + "..."


class CurveHook(Hook):
    """Validates a run on the set of its one task, at the start and after every interval -> `curve.jsonl`.

    The ranks that share the run measure together; the first of them writes.

    Args:
        task: the task.
        dataset: validation set.
        interval: iterations between validations.
        header: identifies the training; a file with another one is refused.
    """

    def __init__(self, task: Task, dataset: Any, *, interval: int, header: Mapping[str, Any]) -> None:
        self.task, self.dataset, self.interval, self.header = task, dataset, interval, dict(header)
        self.curve: Curve = {}

    def before_train(self, trainer: Trainer) -> None:
        self.path = trainer.experiment.path / "curve.jsonl"
        self.metrics = build.build_metrics(trainer.options)  # the run itself has no validation set
        kept = trainer.context.from_main(self._kept(trainer.iteration) if trainer.context.is_main else None)
        self.curve = kept
        is_due = trainer.iteration % self.interval == 0 or trainer.iteration == trainer.total_iter
        if is_due and trainer.iteration not in kept:
            self._measure(trainer)

    def after_step(self, trainer: Trainer, result: StepResult, batches: Sequence[Batch]) -> None:
        if trainer.iteration % self.interval == 0 or trainer.iteration == trainer.total_iter:
            self._measure(trainer)

    def _kept(self, iteration: int) -> Curve:
        """What is there up to an iteration, to which the file is cut."""
        kept = read_curve(self.path, self.header) if self.path.exists() else {}
        kept = {i: v for i, v in kept.items() if i <= iteration}
        lines = [self.header, *({"iteration": i, "metrics": v} for i, v in kept.items())]
        write_atomic(self.path, lambda f: f.write("".join(to_json(x) + "\n" for x in lines).encode()))
        return kept

    def _measure(self, trainer: Trainer) -> None:
        found = validate(trainer.restore, self.dataset, self.metrics, trainer.context, task=self.task).means()
        self.curve[trainer.iteration] = found
        if trainer.context.is_main:
            append_jsonl(self.path, {"iteration": trainer.iteration, "metrics": found})


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


@dataclass(frozen=True)
class _Trainings:
    """One training for each task (see `pool.Work`).

    Attributes:
        options: of the stage.
        headers: task -> header of its curve.
        interval, keep_last: see `SingleTaskReferences`.
    """

    options: Options
    headers: Mapping[str, Mapping[str, Any]]
    interval: int
    keep_last: int | None

    def open(self, context: Context) -> Callable[[str], Record]:
        options, tasks = self.options, build.build_tasks(self.options)
        assert options.val.val_tasks is not None
        spec = options.datasets.val[options.val.val_tasks]

        def train(name: str) -> Record:
            task = tasks[tasks.index(name)]
            dataset = spec.build(scale=options.scale, tasks=TaskSet([task]))
            hook = CurveHook(task, dataset, interval=self.interval, header=self.headers[name])
            logger.info("reference of task %s", name)
            run = reference_options(options, task, self.interval, self.keep_last)
            weights = subrun.latest_weights(subrun.train(run, context, hooks=[hook]))
            return {"weights": str(weights), "curve": {str(i): v for i, v in sorted(hook.curve.items())}}

        return train


@RUNNERS.register()
class SingleTaskReferences(Stage):
    """Trains one network for each task of the option file, all from the same start -> `references.json`.

    `train` is the training of each: the paper fine-tunes RealESRNet for 400,000 iterations with a checkpoint every
    5,000. Where there are fewer tasks than ranks, each training is shared by several, with the global batch of the
    option file; otherwise they queue. Every training is a run of its own below this stage's folder, which resumes.

    Args:
        interval: iterations between two checkpoints and validations on the set that `val.val_tasks` names.
        tasks: names of the tasks to train. None: all of them.
        keep_last: checkpoints of each reference to keep. None: as `logger.keep_last` says.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "references.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"interval": 1, "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        interval: PositiveInt = 5000,
        tasks: list[str] | None = None,
        keep_last: PositiveInt | None = None,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.interval, self.names, self.keep_last, self.processes = interval, tasks, keep_last, processes

    @classmethod
    def smallest(cls, options: Options) -> Options:
        return few_tasks(super().smallest(options))

    def units(self) -> tuple[float, str]:
        train = self.options.train
        return (0 if train is None else train.total_iter * len(self._tasks())), "iterations"

    def files_kept(self) -> int:
        train = self.options.train
        made = 1 if train is None else -(-train.total_iter // self.interval)
        return len(self._tasks()) * (min(made, self.keep_last or made) + 1)

    def _tasks(self) -> TaskSet:
        tasks = build.build_tasks(self.options)
        return tasks if self.names is None else tasks.subset(self.names)

    def work(self) -> None:
        protocol, tasks = protocol_of(self.options), self._tasks()
        headers = {task.name: self._header(task, protocol) for task in tasks}
        about = {"options": options_hash(self._training()), **protocol}
        journal = Journal(self.folder / "trained.jsonl", schema="tgsr.reference_trainings", protocol=about)
        trainings = _Trainings(self.options, headers, self.interval, self.keep_last)
        if not run_all(
            trainings, tasks.names, journal, self.context, processes=self.processes, label=self.options.name,
            trains=True, batch_size=global_batch(self.options),
        ):  # fmt: skip
            raise Stopped
        if self.context.is_main:
            done = journal.read()
            References(
                interval=self.interval,
                protocol=protocol,
                tasks={t.name: {"id": t.id, **{k: done[t.name][k] for k in ("weights", "curve")}} for t in tasks},
                **stamp(self.options),
            ).save(self.folder / self.product)
            tasks.save(self.folder / "tasks.json")
            logger.info("%s: %d tasks", self.folder / self.product, len(tasks))

    def _header(self, task: Task, protocol: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "schema": "tgsr.reference_curve",
            "version": 1,
            "task": task.name,
            "id": task.id,
            "seed": self.options.manual_seed,
            "options": options_hash(self._training()),
            "protocol": protocol,
        }

    def _training(self) -> Options:
        """The options without those that say which networks this start trains, how, and how many files it keeps."""
        spec = self.options.run
        assert spec is not None
        kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("tasks", "keep_last", "processes")}
        return replace(self.options, run=replace(spec, kwargs=kwargs))


def few_tasks(options: Options) -> Options:
    """For rehearsals: four severities of a sweep, two points of a space, the fewest that later stages can read."""
    spec, counts = options.tasks.set, {"num_settings": 4, "num_tasks": 2}
    few = {} if spec is None else {k: n for k, n in counts.items() if k in spec.kwargs}
    if spec is None or not few:
        return options
    return replace(options, tasks=replace(options.tasks, set=with_arguments(spec, few)))


def reference_options(options: Options, task: Task, interval: int, keep_last: int | None) -> Options:
    """The options of one task's training, an experiment of its own below the stage's folder."""
    parent = options.tasks.set
    tasks = None if parent is None else subrun.task_set("Named", parent=parent, names=[task.name])
    return subrun.sub_options(
        options, task.name, tasks=tasks, save_every=interval, keep_last=keep_last, fixed_batch=True
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
