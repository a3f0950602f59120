"""Comparing checkpoints task by task and over the whole space: the numbers of Tables 1-5 and 7 and Figs. 7 and 10."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.tgsr.artefacts import (
    Groups,
    SweepHeader,
    TaskLog,
    load_groups,
)
from tgsr.methods.tgsr.evaluation import TaskEvaluation, check_val_set
from tgsr.methods.tgsr.folders import open_folder
from tgsr.methods.tgsr.task_pool import run_over_tasks
from tgsr.tasks.artefacts import check_schema, load_tasks
from tgsr.tasks.task import WHOLE_SPACE, Task, TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import file_digest, read_json, write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class CompareOnTasks(Runner):
    """Measures checkpoints on every grouped task and on the whole space -> `task_metrics.jsonl`, `comparison.json`.

    Args:
        checkpoints: label -> weights. A label `NAME#SEED` is one of several runs of NAME; reports show their mean and
            spread.
        baseline: label that gains are taken over.
        tasks: `tasks.json`.
        groups: `groups.json`.
        more_groups: label -> another `groups.json` on the same tasks (random groups), measured too.
        val: name of the validation set that every task degrades.
        val_group0: name of the validation set for group 0, each image with its own draw from the whole space. None:
            `val`.
        all_tasks: measure all tasks of the file, not the grouped ones only.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "comparison.json"

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        checkpoints: dict[str, Path],
        baseline: str,
        tasks: Path,
        groups: Path,
        val: str,
        more_groups: dict[str, Path] | None = None,
        val_group0: str | None = None,
        all_tasks: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        if baseline not in checkpoints:
            problem = f"baseline '{baseline}' is not among the checkpoints"
            raise ConfigError(problem, place=f"{options.name}: run.baseline")
        if options.degradation is None:
            raise ConfigError("group 0 is the whole space", place=f"{options.name}: degradation", remedy="add it")
        check_val_set(options, val)
        check_val_set(options, val_group0 or val, key="run.val_group0")
        self.checkpoints = {k: str(v) for k, v in checkpoints.items()}
        self.baseline, self.path, self.groups, self.val = baseline, tasks, groups, val
        self.more_groups, self.val_group0 = more_groups or {}, val_group0 or val
        self.all_tasks, self.processes = all_tasks, processes

    def run(self) -> None:
        assert self.options.degradation is not None
        space = self.options.degradation.space.build()
        tasks = load_tasks(self.path, space=space)
        named = {"": load_groups(self.groups, tasks=tasks)}
        named |= {k: load_groups(p, tasks=tasks) for k, p in self.more_groups.items()}
        grouped = list(dict.fromkeys(n for g in named.values() for n in g.grouped))
        subset = tasks if self.all_tasks else tasks.subset(grouped)
        whole = TaskSet([Task(WHOLE_SPACE, space)])
        open_folder(self)
        values = self._measure("task_metrics", subset, self.val)
        group0 = self._measure("group0", whole, self.val_group0) if values is not None else None
        if values is None or group0 is None:
            return
        if self.context.is_main:
            self._write(values, group0[WHOLE_SPACE], named, tasks.digest)
        self.context.barrier()

    def _measure(self, stem: str, tasks: TaskSet, val: str) -> dict[str, dict[str, dict[str, float]]] | None:
        """Task -> checkpoint -> metric -> value."""
        work = TaskEvaluation(self.options, tasks, val, self.checkpoints)
        header = SweepHeader(f"tgsr.{stem}", seed=0, tasks=tasks.digest, protocol=work.protocol())
        log = TaskLog(self.folder, header)
        label = f"{self.options.name} {stem}"
        if not run_over_tasks(work, tasks.names, log, self.context, processes=self.processes, label=label):
            return None
        records = log.read()
        self.context.barrier()  # every rank must have read the parts before the main one removes them
        if self.context.is_main:
            log.merge(tasks.names)
        self.context.barrier()
        return {n: records[n]["values"] for n in tasks.names}

    def _write(
        self,
        values: Mapping[str, Mapping[str, Mapping[str, float]]],
        group0: Mapping[str, Mapping[str, float]],
        named: Mapping[str, Groups],
        digest: str,
    ) -> None:
        rows = {
            label: {"Group0": dict(group0[label]), **group_means(values, label, named)} for label in self.checkpoints
        }
        write_json(
            self.folder / "comparison.json",
            {
                "schema": "tgsr.comparison",
                "version": 1,
                "seed": self.options.manual_seed,
                "options": options_hash(self.options),
                "tasks": digest,
                "baseline": self.baseline,
                "checkpoints": self.checkpoints,
                "weights": {k: file_digest(v) for k, v in self.checkpoints.items()},
                "protocol": {k: spec.build().protocol for k, spec in self.options.val.metrics.items()},
                "groups": {k or "groups": g.groups[1:] for k, g in named.items()},
                "pis": {k: v for g in list(named.values())[:1] for r in g.rounds[:1] for k, v in r.pis.items()},
                "means": rows,
                "tasks_values": {m: _by_checkpoint(values, m) for m in self.options.val.metrics},
            },
        )
        logger.info("%s", self.folder / "comparison.json")


def group_means(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], label: str, named: Mapping[str, Groups]
) -> dict[str, dict[str, float]]:
    """`Group1`, `Group2`, ... (`<name>/Group1` for further groupings) -> metric -> mean over the group's tasks."""
    means = {}
    for name, groups in named.items():
        for number, members in enumerate(groups.groups[1:], 1):
            key = f"{name}/Group{number}" if name else f"Group{number}"
            metrics = values[members[0]][label]
            means[key] = {m: float(np.mean([values[t][label][m] for t in members])) for m in metrics}
    return means


def _by_checkpoint(values: Mapping[str, Any], metric: str) -> dict[str, dict[str, float]]:
    labels = next(iter(values.values())).keys()
    return {label: {task: entry[label][metric] for task, entry in values.items()} for label in labels}


class Comparison:
    """A `comparison.json`, with the statistics that reports show.

    Args:
        data: its content.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data

    @staticmethod
    def load(path: Path | str) -> Comparison:
        data = read_json(path)
        check_schema(data, "tgsr.comparison", path)
        return Comparison(data)

    def runs(self) -> dict[str, list[str]]:
        """Method -> the labels of its runs (`NAME#SEED` -> `NAME`), the baseline first."""
        found: dict[str, list[str]] = {self.data["baseline"]: [self.data["baseline"]]}
        for label in self.data["checkpoints"]:
            found.setdefault(label.split("#")[0], [])
            if label not in found[label.split("#")[0]]:
                found[label.split("#")[0]].append(label)
        return found

    def gains(self, label: str, tasks: Sequence[str], metric: str = "psnr") -> np.ndarray:
        """Per task: value of a checkpoint minus that of the baseline."""
        values = self.data["tasks_values"][metric]
        return np.array([values[label][t] - values[self.data["baseline"]][t] for t in tasks])

    def group0_gain(self, label: str, metric: str = "psnr") -> float:
        """On group 0."""
        means = self.data["means"]
        return means[label]["Group0"][metric] - means[self.data["baseline"]]["Group0"][metric]

    def groups(self, name: str = "groups") -> dict[str, list[str]]:
        """`Group1`, ... -> tasks, of the first or of a further grouping."""
        return {f"Group{k}": members for k, members in enumerate(self.data["groups"][name], 1)}

    def tasks_with_pis(self, at_least: float) -> list[str]:
        """Tasks whose PIS of the first round reaches a value, best first."""
        pis = self.data["pis"]
        return sorted((t for t, s in pis.items() if s >= at_least), key=lambda t: -pis[t])
