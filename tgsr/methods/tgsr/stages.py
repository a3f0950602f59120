"""The stages of Algorithm 1 as runners: draw tasks, then select and group them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from tgsr.config.options import options_hash
from tgsr.config.schema import Options, TaskOptions, ValOptions
from tgsr.config.spec import Kind, PositiveInt, Range, Spec
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.trainer import Trainer
from tgsr.methods.tgsr.artefacts import (
    SweepHeader,
    TaskLog,
    load_groups,
    load_indicators,
    write_groups,
)
from tgsr.methods.tgsr.evaluation import TaskEvaluation, check_start, check_val_set, weights_stamp
from tgsr.methods.tgsr.folders import open_folder
from tgsr.methods.tgsr.grouping import (
    check_thresholds,
    group_tasks,
    performance_improvement_score,
    random_groups,
    require_groups,
)
from tgsr.methods.tgsr.selection import Direction, select_unsatisfactory
from tgsr.methods.tgsr.task_pool import run_over_tasks
from tgsr.metrics.base import METRICS
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError, Stopped
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")
_TASK_SETS = Kind("tgsr.tasks.sets:TASK_SETS", runtime=("space",))


@RUNNERS.register()
class GroupTasks(Runner):
    """Algorithm 1 after the indicators: select, then rounds of joint fine-tuning and thresholds -> `groups.json`.

    `train` of the option file is the joint fine-tuning of a round (10,000 iterations in the paper), from
    `path.pretrain_network_g`. Each round is a training run of its own below this stage's folder (`round_1`, ...); its
    PIS are kept task by task, so an interrupted stage goes on where it was.

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
        random_like: instead of all this: random groups of the sizes of that `groups.json` (Fig. 7).
        processes: for measuring PIS, per rank; None: one per core on a CPU, one on a GPU.
    """

    continues_other_options = False
    product = "groups.json"

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
        random_like: Path | None = None,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.path, self.indicators, self.val, self.metric = tasks, indicators, val, metric
        self.thresholds = [0.8, 0.6, 0.4, 0.2] if thresholds is None else thresholds
        check_thresholds(self.thresholds)
        self.share = None if indicator_threshold is not None else share
        self.indicator_threshold, self.direction = indicator_threshold, direction
        self.retrain, self.random_like, self.processes = retrain, random_like, processes
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

    def run(self) -> None:
        space = self.options.degradation.space.build() if self.options.degradation is not None else None
        tasks = load_tasks(self.path, space=space)
        selected = self._select(tasks) if self.random_like is None else []
        open_folder(self)
        if self.random_like is not None:
            self._random(tasks)
            return
        if self.context.is_main:
            logger.info("%s: %d of %d tasks are unsatisfactory", self.options.name, len(selected), len(tasks))
        before = self._scores("before", str(self.options.path.pretrain_network_g), tasks, selected)
        if before is None:
            return

        def score(index: int, remaining: Sequence[str]) -> Mapping[str, float]:
            checkpoint = self._fine_tune(index, remaining)
            after = self._scores(f"round_{index + 1}_pis", checkpoint, tasks, remaining)
            if after is None:
                raise Stopped
            return performance_improvement_score(after, before)

        try:
            grouping = group_tasks(selected, thresholds=self.thresholds, score=score, retrain=self.retrain)
        except Stopped:
            return
        for number, r in enumerate(grouping.rounds, 1):
            if self.context.is_main:
                text = "round %d: %d of %d tasks above %.2f dB, best PIS %.2f dB"
                logger.info(text, number, len(r.group), len(r.pis), r.threshold, max(r.pis.values()))
                if not r.group:
                    logger.warning("no task is above %.2f dB: that group is left out", r.threshold)
        require_groups(grouping)
        self._write(grouping, tasks, kind="pis" if self.retrain else "pis-once", selected=selected)

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

    def _random(self, tasks: TaskSet) -> None:
        assert self.random_like is not None
        sizes = [len(g) for g in load_groups(self.random_like, tasks=tasks).groups[1:]]
        groups = random_groups(tasks.names, sizes, seed=self.options.manual_seed)
        self._write(groups, tasks, kind="random", selected=[])

    def _write(self, grouping: Any, tasks: TaskSet, *, kind: str, selected: Sequence[str]) -> None:
        if self.context.is_main:
            start = self.options.path.pretrain_network_g  # random groups need none
            pretrained = None if start is None else weights_stamp(start)
            write_groups(
                self.folder / "groups.json",
                grouping,
                tasks=tasks,
                seed=self.options.manual_seed,
                options=options_hash(self.options),
                kind=kind,
                selected=selected,
                about={"metric": self.metric, "val": self.val, "pretrained": pretrained},
            )
        self.context.barrier()

    def _fine_tune(self, index: int, remaining: Sequence[str]) -> str:
        """Joint fine-tuning of the pre-trained network on the remaining tasks; returns its weights."""
        options = joint_options(self.options, f"{self.options.name}/round_{index + 1}", self.path, list(remaining))
        trainer = Trainer(options, replace(self.context, auto_resume=True))
        folder = trainer.run()
        if trainer.is_stopping:
            self.context.stop_requested = True
            raise Stopped
        return str(folder / "models" / f"net_g_{trainer.total_iter}.pth")

    def _scores(
        self, stem: str, checkpoint: str, tasks: TaskSet, names: Sequence[str]
    ) -> dict[str, float] | None:
        """Task -> metric of a checkpoint on the task's validation set; None when asked to stop."""
        assert self.val is not None
        subset = tasks.subset(names)
        work = TaskEvaluation(self.options, subset, self.val, {"net": checkpoint})
        header = SweepHeader(
            "tgsr.task_metrics", seed=0, tasks=subset.digest, protocol=work.protocol()
        )
        log = TaskLog(self.folder / stem, header)
        label = f"{self.options.name} {stem}"
        if not run_over_tasks(work, subset.names, log, self.context, processes=self.processes, label=label):
            return None
        records = log.read()
        return {name: records[name]["values"]["net"][self.metric] for name in subset.names}


def joint_options(options: Options, name: str, tasks: Path, names: list[str]) -> Options:
    """Options of one joint fine-tuning: uniform over the named tasks, no validation of its own."""
    spec = Spec(_TASK_SETS, "File", {"path": tasks, "names": names})
    return replace(
        options,
        name=name,
        run=None,
        tasks=TaskOptions(set=spec),
        datasets=replace(options.datasets, val={}),
        val=ValOptions(),
    )
