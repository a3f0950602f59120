"""Stage that answers whether grouping helps: single, mixed, grouped and random groups at equal budgets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.engine.smallest import stretched
from tgsr.methods.grids import figures
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.search import random_partition
from tgsr.methods.grids.stages import GroupsFile, load_groups, trainings_units
from tgsr.methods.grids.trainings import (
    GroupTrainer,
    Trained,
    all_tasks,
    group_key,
    protocol_hash,
    training_protocol,
    with_seed,
)
from tgsr.report.builder import Report
from tgsr.study.artefact import stamp
from tgsr.study.measure import Condition, Subject, measure
from tgsr.study.measurements import Measurements
from tgsr.study.stage import Stage
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.files import read_json, write_json
from tgsr.utils.rng import generator

logger = logging.getLogger("tgsr")
Arm = list[tuple[str, ...]]
Run = tuple[str, int, Arm]
"""Name of the arm, seed, groups."""
INPUT = "input"
MAX_DRAWS = 20


@RUNNERS.register()
class CompareGrouping(Stage):
    """Table 1 at any scale -> `comparison.json`: what each way to share networks costs, per degradation and seed.

    Arms: `single` (one network per degradation), `mixed` (one for all), `mixed_long` (one for all with as many
    iterations as all groups together, so that a task sees as many samples as in its group), `grouped` (the search's
    groups), `random` (random groups of the same sizes, another draw for each seed), `random_passed` (random groups of
    the same sizes that pass the search's delta: those that fail are drawn anew among themselves; for the seeds of the
    single networks). All but `mixed_long` train each network for the iterations of the option file. The table is
    written after every seed and budget.

    Args:
        groups: `groups.json`, or the groups themselves. The trainings of the search beside a `groups.json` are used
            again where the configuration is the same.
        val: set that the trainings are measured on while they run, as in the search.
        test: set under `datasets.val` for the final numbers.
        arms: which of the arms.
        seeds: of weights, crops and draws; the random groups too.
        single_seeds: seeds of the single-task networks, the dearest arm.
        processes: see `SearchGrouping`.
    """

    product = "comparison.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"seeds": [0], "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        groups: Path | list[list[str]],
        val: str,
        test: str,
        arms: Sequence[str] = ("single", "mixed", "mixed_long", "grouped", "random"),
        seeds: Sequence[int] = (0, 1, 2),
        single_seeds: Sequence[int] = (0,),
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.groups, self.val, self.test, self.arms = groups, val, test, list(arms)
        self.seeds, self.single_seeds, self.processes = list(seeds), list(single_seeds), processes
        unknown = [a for a in self.arms if a not in figures.ARM_LABELS]
        if unknown:
            remedy = f"known: {', '.join(figures.ARM_LABELS)}"
            raise ConfigError(f"there is no arm '{unknown[0]}'", place=f"{options.name}: run.arms", remedy=remedy)
        if "random_passed" in self.arms and not ("single" in self.arms and isinstance(groups, Path)):
            problem = "random_passed needs the arm single and the groups.json of a search, whose delta it passes"
            raise ConfigError(problem, place=f"{options.name}: run.arms", remedy="leave it out, or name them")

    def units(self) -> tuple[float, str]:
        return trainings_units(self.options, len(self.seeds) * len(self.arms) * 4)

    def work(self) -> None:
        tasks = all_tasks(self.options)
        partition = self._partition(tasks)
        runs = [
            (arm, seed, self._groups_of(arm, seed, partition, tasks))
            for seed in self.seeds
            for arm in self.arms
            if arm not in ("single", "random_passed") or seed in self.single_seeds
        ]
        equal: dict[tuple[int, int], list[Run]] = {}
        for run in sorted(runs, key=lambda r: _budget(r[0], len(partition))):  # the dearest control comes last
            equal.setdefault((run[1], _budget(run[0], len(partition))), []).append(run)
        done: list[tuple[Run, list[Trained]]] = []
        for (seed, budget), same in equal.items():
            done += self._train(same, seed, budget)
            self._write(partition, tasks, done)

    def _partition(self, tasks: TaskSet) -> Arm:
        groups = self.groups
        if isinstance(groups, Path):
            groups = [g["members"] for g in load_groups(groups)["groups"]]
        members = sorted(n for g in groups for n in g)
        if members != sorted(tasks.names):
            raise ConfigError(
                f"the groups hold {', '.join(members)}, the run's degradations are {', '.join(sorted(tasks.names))}",
                place=f"{self.options.name}: run.groups", remedy="every degradation in exactly one group",
            )  # fmt: skip
        return [tuple(sorted(g)) for g in groups]

    def _groups_of(self, arm: str, seed: int, partition: Arm, tasks: TaskSet) -> Arm:
        names = tasks.names
        if arm == "grouped":
            return partition
        if arm.startswith("random"):
            drawn = random_partition([len(g) for g in partition], generator(seed, "random-groups"))
            return [tuple(sorted(names[i] for i in g)) for g in drawn]
        return [(n,) for n in names] if arm == "single" else [tuple(sorted(names))]

    def _options_of(self, seed: int, budget: int) -> Options:
        return stretched(with_seed(self.options, seed), budget)

    def _train(self, runs: list[Run], seed: int, budget: int) -> list[tuple[Run, list[Trained]]]:
        """The arms of one seed with one budget: all their networks at once, so that no process waits for another."""
        folder = self.folder / (f"seed_{seed}" if budget == 1 else f"seed_{seed}_x{budget}")
        options = self._options_of(seed, budget)
        with GroupTrainer(options, self.context, folder, val=self.val, processes=self.processes) as trainer:
            if isinstance(self.groups, Path):
                trainer.reuse(self.groups.parent)
            trainer([group for arm, _, groups in runs if arm != "random_passed" for group in groups])
            runs = [(a, s, self._passing(s, g, trainer) if a == "random_passed" else g) for a, s, g in runs]
            found = [(run, [trainer.get(group) for group in run[2]]) for run in runs]
        failed = [t for _, networks in found for t in networks if t is not None and t.status != "ok"]
        if failed:
            raise UserError(
                f"the training of {group_key(failed[0].names)} failed: {failed[0].error}",
                place=str(trainer.journal.path), remedy="remove its lines from the journal to train it again",
            )  # fmt: skip
        if self.context.is_main:
            self._write_groups(found)
        return found  # type: ignore[return-value]

    def _passing(self, seed: int, groups: Arm, trainer: GroupTrainer) -> Arm:
        """Random groups of these sizes whose drops are at most the search's delta.

        Raises:
            UserError: none were found in `MAX_DRAWS` rounds.
        """
        assert isinstance(self.groups, Path), "checked"
        delta = load_groups(self.groups)["delta"]
        oracle = TrainingOracle(sorted(n for g in groups for n in g), trainer)
        passed: Arm = []
        for attempt in range(MAX_DRAWS):
            trainer(groups)
            passed += [g for g in groups if oracle(tuple(map(oracle.names.index, g))) <= delta]
            rest = sorted(n for g in groups if g not in passed for n in g)
            if not rest:
                return passed
            rng = generator(seed, "random-groups-passed", attempt)
            drawn = random_partition([len(g) for g in groups if g not in passed], rng)
            groups = [tuple(rest[i] for i in g) for g in drawn]
        raise UserError(
            f"no random groups with drops of at most {delta} dB in {MAX_DRAWS} draws",
            place=f"{self.options.name}: run.arms", remedy="leave out random_passed, or search with a larger delta",
        )  # fmt: skip

    def _write_groups(self, found: Sequence[tuple[Run, Sequence[Trained | None]]]) -> None:
        """A `groups.json` of the grouped networks of the first seed, for the router."""
        for (arm, seed, groups), networks in found:
            if arm == "grouped" and seed == self.seeds[0]:
                entries = [
                    {"members": list(g), "weights": t.checkpoint}
                    for g, t in zip(groups, networks, strict=True)
                    if t is not None
                ]
                GroupsFile(groups=entries, **stamp(self.options)).save(self.folder / "groups.json")

    def _measure(self, tasks: TaskSet, done: Sequence[tuple[Run, Sequence[Trained]]]) -> Measurements:
        subjects = [Subject(INPUT)]
        for (arm, seed, _), networks in done:
            subjects += [Subject(f"{arm}#{seed}", Path(t.checkpoint), on=t.names) for t in networks]
        conditions = [Condition(self.test, task) for task in tasks]
        return measure(
            subjects, conditions, ["psnr"], self.results / "measured.jsonl", self.options, self.context,
            processes=self.processes,
        )  # fmt: skip

    def _write(self, partition: Arm, tasks: TaskSet, done: Sequence[tuple[Run, Sequence[Trained]]]) -> None:
        found = self._measure(tasks, done)
        if not self.context.is_main:
            return
        content = {
            "schema": "tgsr.grids_comparison",
            "version": 1,
            "options": options_hash(self.options),
            "degradations": tasks.names,
            "groups": partition,
            "test": {
                "name": self.test, "num_images": found.records[0].num_images, **found.metrics["psnr"],
            },
            "input_psnr": found.values(INPUT, "psnr")[""],
            "runs": [self._record(run, found, len(partition)) for run, _ in done],
        }  # fmt: skip
        write_json(self.folder / self.product, content)

    def _record(self, run: Run, found: Measurements, num_groups: int) -> dict[str, Any]:
        arm, seed, groups = run
        options = self._options_of(seed, _budget(arm, num_groups))
        assert options.train is not None, "its networks were trained"
        iterations, batch = options.train.total_iter, global_batch(options)
        protocol = training_protocol(options, self.val, self.context)
        return {
            "arm": arm, "seed": seed, "groups": groups, "iterations": iterations,
            "config": protocol_hash({**protocol, "test": str(options.datasets.val[self.test])}),
            "psnr": found.values(arm, "psnr")[str(seed)],
            "samples_per_task": {n: round(iterations * batch / len(g)) for g in groups for n in g},
        }  # fmt: skip

    def page(self) -> Report:
        return figures.comparison_report(read_json(self.folder / self.product))


def _budget(arm: str, num_groups: int) -> int:
    """Iterations of each of an arm's networks, in those of the option file."""
    return num_groups if arm == "mixed_long" else 1
