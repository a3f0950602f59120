"""Stage that answers whether grouping helps: single, mixed, grouped and random groups at equal budgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.build import global_batch
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.stages import make_restorer
from tgsr.methods.grids import figures
from tgsr.methods.grids.oracle import OracleMemo
from tgsr.methods.grids.search import random_partition
from tgsr.methods.grids.stages import VERSION, build_set, load_groups, with_seed
from tgsr.methods.grids.trainings import (
    GroupTrainer,
    all_tasks,
    evaluate_tasks,
    group_options,
    protocol_hash,
    scaled_budget,
    stoppable,
    training_protocol,
)
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import append_jsonl, read_jsonl, write_json
from tgsr.utils.rng import generator

logger = logging.getLogger("tgsr")
Arm = list[tuple[str, ...]]
Run = tuple[str, int, Arm]
"""Name of the arm, seed, groups."""


@RUNNERS.register()
class CompareGrouping(Runner):
    """Table 1 at any scale -> `comparison.json`: what each way to share networks costs, per degradation and seed.

    Arms: `single` (one network per degradation), `mixed` (one for all), `mixed_long` (one for all with as many
    iterations as all groups together, so that a task sees as many samples as in its group), `grouped` (the search's
    groups), `random` (random groups of the same sizes, another draw for each seed). All but `mixed_long` train each
    network for the iterations of the option file.

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

    def run(self) -> None:
        tasks = all_tasks(self.options)
        partition = self._partition(tasks)
        equal_budgets: dict[tuple[int, int], list[Run]] = {}
        for run in self._runs(partition, tasks):
            arm, seed, _ = run
            equal_budgets.setdefault((seed, _budget(arm, len(partition))), []).append(run)
        with stoppable(self.context):
            for runs in equal_budgets.values():
                self._train(runs, tasks, len(partition))
            self._write(partition, tasks)

    def _runs(self, partition: Arm, tasks: TaskSet) -> list[Run]:
        return [
            (arm, seed, self._groups_of(arm, seed, partition, tasks))
            for seed in self.seeds
            for arm in self.arms
            if arm != "single" or seed in self.single_seeds
        ]

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
        if arm == "random":
            drawn = random_partition([len(g) for g in partition], generator(seed, "random-groups"))
            return [tuple(sorted(names[i] for i in g)) for g in drawn]
        return [(n,) for n in names] if arm == "single" else [tuple(sorted(names))]

    @property
    def log(self) -> Path:
        return self.folder / "measured.jsonl"

    def _train(self, runs: list[Run], tasks: TaskSet, num_groups: int) -> None:
        """The arms of one seed with one budget: all their networks at once, so that no process waits for another."""
        runs = [run for run in runs if self._record(*run, num_groups) is None]
        if not runs:
            return
        arm, seed, _ = runs[0]
        options = self._options_of(arm, seed, num_groups)
        budget = _budget(arm, num_groups)
        folder = self.folder / (f"seed_{seed}" if budget == 1 else f"seed_{seed}_x{budget}")
        with GroupTrainer(options, self.context, folder, val=self.val, processes=self.processes) as trainer:
            self._reuse(trainer)
            trainer([group for _, _, groups in runs for group in groups])
            for run in runs:
                self._measure(run, options, trainer, tasks)

    def _measure(self, run: Run, options: Options, trainer: GroupTrainer, tasks: TaskSet) -> None:
        assert options.train is not None
        arm, seed, groups = run
        psnr: dict[str, float] = {}
        for group in groups:
            psnr.update(self._measure_group(options, trainer, group, tasks))
        if not self.context.is_main:
            return
        if arm == "grouped" and seed == self.seeds[0]:
            self._write_groups(groups, trainer)
        record = {
            "arm": arm, "seed": seed, "config": self._config(options), "groups": groups,
            "iterations": options.train.total_iter, "psnr": psnr,
            "samples_per_task": {n: self._samples(options, len(g)) for g in groups for n in g},
        }  # fmt: skip
        append_jsonl(self.log, record)
        logger.info("%s, seed %d: %.2f dB on average", arm, seed, sum(psnr.values()) / len(psnr))

    def _options_of(self, arm: str, seed: int, num_groups: int) -> Options:
        return scaled_budget(with_seed(self.options, seed), _budget(arm, num_groups))

    def _record(self, arm: str, seed: int, groups: Arm, num_groups: int) -> dict[str, Any] | None:
        """The newest measurement of these very groups with this configuration."""
        wanted = {"arm": arm, "seed": seed, "config": self._config(self._options_of(arm, seed, num_groups))}
        found = None
        for record in read_jsonl(self.log):
            same_groups = {frozenset(g) for g in record["groups"]} == {frozenset(g) for g in groups}
            if same_groups and all(record[k] == v for k, v in wanted.items()):
                found = record
        return found

    def _write_groups(self, groups: Arm, trainer: GroupTrainer) -> None:
        """A `groups.json` of the grouped networks of the first seed, for the router."""
        entries = [{"members": list(g), "weights": trainer.memo.get(g).checkpoint} for g in groups]
        header = {"schema": "tgsr.grids_groups", "version": VERSION, "options": options_hash(self.options)}
        write_json(self.folder / "groups.json", {**header, "groups": entries})

    def _config(self, options: Options) -> str:
        return protocol_hash({**training_protocol(options, self.val), "test": str(options.datasets.val[self.test])})

    def _samples(self, options: Options, group_size: int) -> int:
        assert options.train is not None
        return round(options.train.total_iter * global_batch(options) / group_size)

    def _reuse(self, trainer: GroupTrainer) -> None:
        """Take over what the search has trained with the very same configuration."""
        path = self.groups.parent / "oracle.json" if isinstance(self.groups, Path) else None
        if path is not None and path.exists() and self.context.is_main:
            with suppress(DataError):  # the memo of another configuration: nothing to take over
                for trained in OracleMemo(path, config=trainer.memo.config).trainings:
                    if trained.status == "ok" and trainer.memo.get(trained.names) is None:
                        trainer.memo.add(trained)
        self.context.barrier()
        trainer.memo.reload()

    def _measure_group(
        self, options: Options, trainer: GroupTrainer, group: tuple[str, ...], tasks: TaskSet
    ) -> dict[str, float]:
        trained = trainer.memo.get(group)
        if trained is None or trained.status != "ok":
            raise UserError(
                f"the training of {'+'.join(group)} failed: {trained.error if trained else 'no result'}",
                place=str(trainer.memo.path), remedy="remove its entry from the memo to train it again",
            )  # fmt: skip
        restore = checkpoint_restorer(options, trained.checkpoint, self.context)
        return evaluate_tasks(restore, options, self.test, "psnr", tasks.subset(group), self.context)

    def _write(self, partition: Arm, tasks: TaskSet) -> None:
        dataset = build_set(self.options, self.test, tasks)
        metric = self.options.val.metrics["psnr"].build()
        inputs = evaluate_tasks(lambda lq: lq, self.options, self.test, "psnr", tasks, self.context)
        if not self.context.is_main:
            return
        content = {
            "schema": "tgsr.grids_comparison",
            "version": 1,
            "options": options_hash(self.options),
            "degradations": tasks.names,
            "groups": partition,
            "test": {"name": self.test, "num_images": len(dataset), "protocol": metric.protocol},
            "input_psnr": inputs,
            "runs": [r for r in (self._record(*run, len(partition)) for run in self._runs(partition, tasks)) if r],
        }
        write_json(self.folder / "comparison.json", content)
        page = figures.comparison_report(content).write(self.folder / "report")
        logger.info("report: %s", page)


def _budget(arm: str, num_groups: int) -> int:
    """Iterations of each of an arm's networks, in those of the option file."""
    return num_groups if arm == "mixed_long" else 1


def checkpoint_restorer(options: Options, checkpoint: str, context: Context) -> Any:
    """The network of the options with the weights of one training."""
    run = group_options(options, Path(), ("unused",))
    return make_restorer(replace(run, path=replace(run.path, pretrain_network_g=Path(checkpoint))), context)
