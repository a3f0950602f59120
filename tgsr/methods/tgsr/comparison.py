"""Comparing checkpoints task by task and over the whole space: the numbers of Figs. 7 and 10."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.build import build_metrics
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.tgsr.artefacts import Groups
from tgsr.methods.tgsr.evaluation import check_val_set
from tgsr.study.artefact import stamp
from tgsr.study.measure import Condition, Subject, measure, usable_metrics, with_metrics
from tgsr.study.measurements import Measurements
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.files import check_schema, file_digest, read_json, write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class CompareOnTasks(Stage):
    """Measures checkpoints on every grouped task and on the whole space -> `comparison.json`.

    What is measured is kept in `measured.jsonl` by the content of the weights.

    Args:
        checkpoints: label -> weights. A label `NAME#SEED` is one of several runs of NAME; reports show their mean and
            spread.
        baseline: label that gains are taken over.
        tasks: `tasks.json`.
        groups: `groups.json`. None: all tasks of the file, in no groups.
        more_groups: label -> another `groups.json` on the same tasks (random groups), measured too.
        val: name of the validation set that every task degrades.
        val_group0: name of the validation set for group 0, each image with its own draw from the whole space. None:
            `val`.
        all_tasks: measure all tasks of the file, not the grouped ones only.
        num_tasks: the first so many of those that would be measured.
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
        val: str,
        groups: Path | None = None,
        more_groups: dict[str, Path] | None = None,
        val_group0: str | None = None,
        all_tasks: bool = False,
        num_tasks: PositiveInt | None = None,
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
        self.checkpoints, self.baseline = checkpoints, baseline
        self.path, self.groups, self.val, self.val_group0 = tasks, groups, val, val_group0 or val
        self.more_groups, self.all_tasks, self.num_tasks = more_groups or {}, all_tasks or groups is None, num_tasks
        self.processes = processes

    def run(self) -> None:
        self._named(self._tasks())  # files that don't belong together are told before a folder is touched
        super().run()

    def work(self) -> None:
        tasks = self._tasks()
        named = self._named(tasks)
        grouped = list(dict.fromkeys(n for g in named.values() for n in g.grouped))
        chosen = (tasks.names if self.all_tasks else grouped)[: self.num_tasks]
        metrics, left_out = usable_metrics(self.options, self.context)
        for name, why in left_out.items():
            logger.warning("metric '%s' is left out: %s", name, why)
        subjects = [Subject(label, Path(path)) for label, path in self.checkpoints.items()]
        conditions = [Condition(self.val, task) for task in tasks.subset(chosen)]
        by_task = self._measure(subjects, conditions, metrics)
        group0 = self._measure(subjects, [Condition(self.val_group0)], metrics)
        if self.context.is_main:
            write_json(self.folder / self.product, self._content(by_task, group0, named, tasks.digest))
            logger.info("%s", self.folder / self.product)

    def _measure(
        self, subjects: Sequence[Subject], conditions: Sequence[Condition], metrics: Sequence[str]
    ) -> Measurements:
        return measure(
            subjects, conditions, metrics, self.results / "measured.jsonl", self.options, self.context,
            processes=self.processes,
        )  # fmt: skip

    def _tasks(self) -> TaskSet:
        assert self.options.degradation is not None, "checked by the constructor"
        return load_tasks(self.path, space=self.options.degradation.space.build())

    def _named(self, tasks: TaskSet) -> dict[str, Groups]:
        named = {} if self.groups is None else {"": Groups.load(self.groups, tasks=tasks)}
        return named | {k: Groups.load(p, tasks=tasks) for k, p in self.more_groups.items()}

    def _content(
        self, by_task: Measurements, group0: Measurements, named: Mapping[str, Groups], digest: str
    ) -> dict[str, Any]:
        values = {metric: _by_label(by_task, metric) for metric in by_task.metrics}
        whole = {m: _by_label(group0, m) for m in group0.metrics}
        means = {}
        for label in self.checkpoints:
            means[label] = {"Group0": {m: whole[m][label][self.val_group0] for m in whole}}
            means[label] |= group_means({m: v[label] for m, v in values.items()}, named)
        main = next(iter(named.values()), None)
        return {
            "schema": "tgsr.comparison",
            "version": 1,
            **stamp(self.options),
            "tasks": digest,
            "val": self.val,
            "baseline": self.baseline,
            "checkpoints": {k: str(v) for k, v in self.checkpoints.items()},
            "weights": {k: file_digest(v) for k, v in self.checkpoints.items()},
            "protocol": {k: m.protocol for k, m in build_metrics(with_metrics(self.options, list(values))).items()},
            "groups": {k or "groups": g.groups[1:] for k, g in named.items()},
            "pis": {k: v for r in (main.rounds[:1] if main else ()) for k, v in r.pis.items()},
            "means": means,
            "tasks_values": values,
        }


def _by_label(found: Measurements, metric: str) -> dict[str, dict[str, float]]:
    """Label -> task (or set) -> value."""
    return {
        f"{name}#{seed}" if seed else name: values
        for name in found.names
        for seed, values in found.values(name, metric).items()
    }


def group_means(values: Mapping[str, Mapping[str, float]], named: Mapping[str, Groups]) -> dict[str, dict[str, float]]:
    """`Group1`, `Group2`, ... (`<name>/Group1` for further groupings) -> metric -> mean over the group's tasks.

    Args:
        values: metric -> task -> value; groups of which nothing was measured are left out.
        named: name of a grouping, empty for the first one, -> groups.
    """
    means = {}
    for name, groups in named.items():
        for group, members in groups.members.items():
            found = {m: [v[t] for t in members if t in v] for m, v in values.items()}
            if all(found.values()):
                means[f"{name}/{group}" if name else group] = {m: float(np.mean(v)) for m, v in found.items()}
    return means


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

    @property
    def weights(self) -> str:
        """Digest of the baseline."""
        return self.data["weights"][self.data["baseline"]]

    def metrics(self) -> list[str]:
        """Names of what was measured."""
        return list(self.data["tasks_values"])

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
        """`Group1`, ... -> tasks, of the first or of a further grouping, without empty ones."""
        return {f"Group{k}": members for k, members in enumerate(self.data["groups"].get(name, ()), 1) if members}

    def tasks_with_pis(self, at_least: float) -> list[str]:
        """Tasks whose PIS of the first round reaches a value, best first."""
        pis = self.data["pis"]
        return sorted((t for t, s in pis.items() if s >= at_least), key=lambda t: -pis[t])
