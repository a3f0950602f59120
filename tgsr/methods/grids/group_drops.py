"""Stage behind Table 2 and Fig. 2: what given groups lose, beside how far apart their degradations are."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.grids import figures
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.paper_values import TABLE2
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.stages import trainings_units
from tgsr.methods.grids.trainings import GroupTrainer, all_tasks, group_key
from tgsr.report.builder import Report
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.printed import find_table
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError, UserError

logger = logging.getLogger("tgsr")


@dataclass(frozen=True, kw_only=True)
class GroupDrops(Artefact):
    """A `group_drops.json`.

    Attributes:
        groups: `{members, drops, distances, psnr}` of each.
        single_psnr: degradation -> PSNR of its single-task network.
        protocol: of the trainings.
        paper: printed table that stands beside, `NAME/NUMBER`.
    """

    schema: ClassVar[str] = "tgsr.grids_group_drops"
    made_by: ClassVar[str] = "MeasureGroupDrops"

    groups: Sequence[Mapping[str, Any]]
    single_psnr: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    paper: str | None = None


@RUNNERS.register()
class MeasureGroupDrops(Stage):
    """Table 2 and Fig. 2 -> `group_drops.json`: one network for each given group, its drops beside distances.

    `train`, `network_g` and `datasets.train` are the budget of every training, as in `SearchGrouping`; first one for
    each degradation, then one for each group, kept in `oracle.jsonl`. Started again, it goes on.

    Args:
        val: set under `datasets.val` that performance is measured on.
        similarity: name of a descriptor -> its `similarity*.npz`; the names `descriptor`, `vgg` and `sift` are those
            of the paper's experiments.
        groups: groups of degradations; None: those of the printed table, without one those of Table 2, whose
            degradations the run has.
        paper: `grids/2a`, `grids/2b` or `grids/2c`: the printed table that stands beside.
        networks: group (`a+b`) -> weights that other stages have trained with the same options: not trained again.
        retry_failed: train again what failed before.
        processes: see `SearchGrouping`.
    """

    product = "group_drops.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        val: str,
        similarity: dict[str, Path] | None = None,
        groups: list[list[str]] | None = None,
        paper: str | None = None,
        networks: dict[str, Path] | None = None,
        retry_failed: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.val, self.groups = dict(similarity or {}), val, groups
        self.networks, self.retry_failed, self.processes = networks, retry_failed, processes
        self.paper = paper
        self.rows = {} if paper is None else {label: figures.members_of(label) for label in find_table(paper).rows}

    def units(self) -> tuple[float, str]:
        names = {group_key(g) for g in self._groups(all_tasks(self.options).names)}
        return trainings_units(self.options, len(names)) if not self.networks else (len(names), "groups")

    def work(self) -> None:
        names = all_tasks(self.options).names
        groups = self._groups(names)
        measured = {name: Similarity.load(path) for name, path in self.similarity.items()}
        used = [n for n in names if any(n in g for g in groups)]
        places = [tuple(map(used.index, g)) for g in groups]
        trainer = GroupTrainer(
            self.options, self.context, self.folder, val=self.val, processes=self.processes, known=self.networks
        )
        with trainer:
            oracle = TrainingOracle(used, trainer, retry_failed=self.retry_failed)
            singles = oracle.train_singles()
            oracle.ensure(places)
        if self.context.is_main:
            found = [self._entry(g, singles, measured, trainer) for g in groups]
            GroupDrops(
                groups=found, single_psnr=singles, protocol=trainer.protocol, paper=self.paper, **stamp(self.options)
            ).save(self.folder / self.product)
        failed = [t.names for t in map(trainer.get, groups) if t is not None and t.status != "ok"]
        if failed:
            raise UserError(
                f"{len(failed)} trainings failed: {', '.join(map(group_key, failed))}",
                place=str(trainer.journal.path), remedy="start again with retry_failed: true; the others are kept",
            )  # fmt: skip

    def _groups(self, names: list[str]) -> list[tuple[str, ...]]:
        if self.groups is None:
            known = list(self.rows.values()) or [row.group for row in TABLE2]
            return [g for g in known if set(g) <= set(names)]
        unknown = sorted({n for g in self.groups for n in g} - set(names))
        if unknown:
            raise ConfigError(
                f"the run has no degradations {', '.join(unknown)}", place=f"{self.options.name}: run.groups",
                remedy=f"known: {', '.join(names)}",
            )  # fmt: skip
        return [tuple(g) for g in self.groups]

    def _entry(
        self,
        group: tuple[str, ...],
        singles: Mapping[str, float],
        measured: Mapping[str, Similarity],
        trainer: GroupTrainer,
    ) -> dict[str, Any]:
        trained = trainer.get(group)
        psnr = dict(trained.psnr) if trained is not None else {}
        drops = {n: singles[n] - psnr[n] for n in group if n in psnr}
        distances = {k: s.mean_distance(group) for k, s in measured.items()}
        return {"members": list(group), "drops": drops, "distances": distances, "psnr": psnr}

    def page(self) -> Report:
        return figures.drops_report(GroupDrops.load(self.folder / self.product).to_json())

    def check(self) -> list[str]:
        self._groups(all_tasks(self.options).names)
        return []
