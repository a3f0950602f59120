"""Algorithm 1 after the indicators, and networks of single groups, as stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.tgsr.artefacts import Groups, load_indicators, weights_stamp
from tgsr.methods.tgsr.evaluation import check_start, check_val_set
from tgsr.methods.tgsr.grouping import (
    check_thresholds,
    group_tasks,
    performance_improvement_score,
    random_groups,
    require_groups,
)
from tgsr.methods.tgsr.selection import Direction, select_unsatisfactory
from tgsr.metrics.base import METRICS
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.journal import Journal, Record
from tgsr.study.measure import Condition, Subject, measure
from tgsr.study.pool import run_all
from tgsr.study.stage import Stage
from tgsr.study.subrun import latest_weights, sub_options, task_set, train
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.task import WHOLE_SPACE, TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class GroupTasks(Stage):
    """Algorithm 1 after the indicators: select, then rounds of joint fine-tuning and thresholds -> `groups.json`.

    `train` of the option file is the joint fine-tuning of a round (10,000 iterations in the paper), from
    `path.pretrain_network_g`. Each round is a training run of its own below this stage's folder (`round_1`, ...); what
    is measured for the PIS is kept by the content of the weights, so an interrupted stage goes on where it was.

    Args:
        tasks: `tasks.json`.
        indicators: `indicators.jsonl`.
        val: name of the validation set (Set14 in the paper), degraded by each task.
        metric: name under `val.metrics` whose improvement is the PIS; more must be better.
        thresholds: of the groups in dB, descending.
        share: part of the tasks to select by the indicator. None: use `indicator_threshold`.
        indicator_threshold: select every task below it (or above, with `direction: high`).
        direction: `low`: a low z is unsatisfactory; `high`: Algorithm 1 to the letter.
        retrain: fine-tune anew in every round; False: the first round's PIS serve all (section 7.2.2's question).
        even: groups of equal size whatever the PIS, as many as there are thresholds (rehearsals).
        random_like: instead of all this: random groups of the sizes of that `groups.json` (Fig. 7).
        processes: for measuring PIS, per rank; None: one per core on a CPU, one on a GPU.
    """

    continues_other_options = False
    product = "groups.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"even": True, "share": 1.0, "indicator_threshold": None}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path,
        indicators: Path | None = None,
        val: str | None = None,
        metric: str = "psnr",
        thresholds: list[float] | None = None,
        share: Annotated[float, Range(0, 1)] | None = 0.4,
        indicator_threshold: float | None = None,
        direction: Direction = "low",
        retrain: bool = True,
        even: bool = False,
        random_like: Path | None = None,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.path, self.indicators, self.val, self.metric = tasks, indicators, val, metric
        self.thresholds = [0.8, 0.6, 0.4, 0.2] if thresholds is None else thresholds
        check_thresholds(self.thresholds)
        self.share = None if indicator_threshold is not None else share
        self.indicator_threshold, self.direction = indicator_threshold, direction
        self.retrain, self.even, self.random_like, self.processes = retrain, even, random_like, processes
        if random_like is None:
            self._check_needs()

    def _check_needs(self) -> None:
        options = self.options
        missing = {"run.indicators": self.indicators, "run.val": self.val, "train": options.train}
        for key, value in missing.items():
            if value is None:
                raise ConfigError("grouping needs it", place=f"{options.name}: {key}")
        check_start(options)
        assert self.val is not None
        check_val_set(options, self.val)
        spec, place = options.val.metrics.get(self.metric), f"{options.name}: run.metric"
        if spec is None:
            remedy = did_you_mean(self.metric, options.val.metrics)
            raise ConfigError(f"there is no metric '{self.metric}' under val.metrics", place=place, remedy=remedy)
        if not METRICS.get(spec.type).higher_is_better:
            problem = f"less of '{self.metric}' is better, so its increase is no improvement score"
            raise ConfigError(problem, place=place, remedy="use a metric of which more is better, e.g. PSNR")

    def units(self) -> tuple[float, str]:
        if self.random_like is not None or self.options.train is None:
            return 1, "stage"
        rounds = len(self.thresholds) if self.retrain else 1
        return rounds * self.options.train.total_iter, "iterations"

    def run(self) -> None:
        if self.random_like is None:
            self._select(self._tasks())  # files that don't belong together are told before a folder is touched
        super().run()

    def work(self) -> None:
        tasks = self._tasks()
        groups = self._random(tasks) if self.random_like is not None else self._group(tasks)
        if self.context.is_main:
            groups.save(self.folder / self.product)

    def _tasks(self) -> TaskSet:
        space = self.options.degradation.space.build() if self.options.degradation is not None else None
        return load_tasks(self.path, space=space)

    def _random(self, tasks: TaskSet) -> Groups:
        assert self.random_like is not None
        sizes = [len(g) for g in Groups.load(self.random_like, tasks=tasks).groups[1:]]
        groups = [[WHOLE_SPACE], *random_groups(tasks.names, sizes, seed=self.options.manual_seed)]
        return Groups(tasks=tasks.digest, groups=groups, kind="random", about=self._about(), **stamp(self.options))

    def _about(self) -> dict[str, Any]:
        start = self.options.path.pretrain_network_g  # random groups need none
        pretrained = None if start is None else weights_stamp(start)
        return {"metric": self.metric, "val": self.val, "pretrained": pretrained}

    def _group(self, tasks: TaskSet) -> Groups:
        selected = self._select(tasks)
        if self.context.is_main:
            logger.info("%s: %d of %d tasks are unsatisfactory", self.options.name, len(selected), len(tasks))
        before = self._values(check_start(self.options), tasks, selected)

        def score(index: int, remaining: Sequence[str]) -> Mapping[str, float]:
            joint = task_set("File", path=self.path, names=list(remaining))
            trainer = train(sub_options(self.options, f"round_{index + 1}", tasks=joint), self.context)
            after = self._values(latest_weights(trainer), tasks, remaining)
            return performance_improvement_score(after, before)

        how = {"thresholds": self.thresholds, "retrain": self.retrain, "even": self.even}
        grouping = group_tasks(selected, score=score, **how)
        for number, r in enumerate(grouping.rounds, 1):
            if self.context.is_main:
                text = "round %d: %d of %d tasks above %.2f dB, best PIS %.2f dB"
                logger.info(text, number, len(r.group), len(r.pis), r.threshold, max(r.pis.values()))
                if not r.group:
                    logger.warning("no task is above %.2f dB: group %d is empty", r.threshold, number)
        require_groups(grouping)
        kind = "pis" if self.retrain else "pis-once"
        return Groups.of(grouping, tasks, selected=selected, kind=kind, about=self._about(), **stamp(self.options))

    def _select(self, tasks: TaskSet) -> list[str]:
        assert self.indicators is not None
        sweep = load_indicators(self.indicators, tasks=tasks)
        measured, ours = sweep.header["protocol"].get("pretrained"), weights_stamp(check_start(self.options))
        if isinstance(measured, Mapping) and measured["digest"] != ours["digest"]:
            raise DataError(
                f"the indicators are of other weights ({measured['path']}, content {measured['digest']}) than "
                f"path.pretrain_network_g ({ours['path']}, content {ours['digest']})",
                place=str(self.indicators),
                remedy="group with the network of the sweep, or run the sweep again",
            )
        z = sweep.values("z")
        return select_unsatisfactory(z, share=self.share, threshold=self.indicator_threshold, direction=self.direction)

    def _values(self, weights: Path, tasks: TaskSet, names: Sequence[str]) -> dict[str, float]:
        """Task -> metric of a checkpoint on the task's validation set."""
        assert self.val is not None
        conditions = [Condition(self.val, task) for task in tasks.subset(names)]
        found = measure(
            [Subject("net", weights)], conditions, [self.metric], self.results / "measured.jsonl", self.options,
            self.context, processes=self.processes,
        )  # fmt: skip
        return found.values("net", self.metric)[""]


@dataclass(frozen=True, kw_only=True)
class GroupNetworks(Artefact):
    """`networks.json`: the network of each group, for a row of a table that is measured group by group.

    Attributes:
        tasks: digest of the task set.
        groups: `members`, the name of the group, and `weights`.
    """

    schema: ClassVar[str] = "tgsr.group_networks"
    made_by: ClassVar[str] = "TrainOnGroups"

    tasks: str
    groups: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class GroupTraining:
    """Work on one group (see `study.pool`): the training of the option file on its tasks alone."""

    options: Options
    tasks: Path
    members: Mapping[str, list[str]]

    def open(self, context: Context) -> Callable[[str], Record]:
        def run(name: str) -> Record:
            alone = task_set("File", path=self.tasks, names=self.members[name])
            trainer = train(sub_options(self.options, name, tasks=alone, fixed_batch=True), context)
            return {"members": [name], "weights": str(latest_weights(trainer))}

        return run


@RUNNERS.register()
class TrainOnGroups(Stage):
    """A network for each group, trained on it alone (the row `SG` of Table 3) -> `networks.json`.

    Where there are more ranks than groups, the ranks are divided among them. A group without tasks has no network.

    Args:
        tasks: `tasks.json`.
        groups: `groups.json`.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "networks.json"

    def __init__(
        self, *, options: Options, context: Context, tasks: Path, groups: Path, processes: PositiveInt | None = None
    ) -> None:
        super().__init__(options=options, context=context)
        if options.train is None or options.datasets.train is None:
            raise ConfigError("needs the sections train and datasets.train", place=options.name)
        check_start(options)
        self.path, self.groups, self.processes = tasks, groups, processes

    def units(self) -> tuple[float, str]:
        assert self.options.train is not None, "checked by the constructor"
        num = len(Groups.load(self.groups).members) if self.groups.exists() else 4
        return num * self.options.train.total_iter, "iterations"

    def work(self) -> None:
        tasks = load_tasks(self.path)
        members = Groups.load(self.groups, tasks=tasks).members
        work, protocol = GroupTraining(self.options, self.path, members), {"members": members}
        journal = Journal(self.folder / "trainings.jsonl", schema="tgsr.trainings", protocol=protocol)
        label, batch = self.options.name, global_batch(self.options)
        how = {"processes": self.processes, "label": label, "trains": True, "batch_size": batch}
        if not run_all(work, list(members), journal, self.context, **how):
            raise Stopped
        if self.context.is_main:
            found = journal.read()
            groups = [{k: found[name][k] for k in ("members", "weights")} for name in members]
            GroupNetworks(tasks=tasks.digest, groups=groups, **stamp(self.options)).save(self.folder / self.product)
