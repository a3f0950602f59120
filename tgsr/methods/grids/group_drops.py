"""Stage behind Table 2: trains given groups and sets what they lose beside how far apart their degradations are."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.grids import figures
from tgsr.methods.grids.oracle import TrainingOracle
from tgsr.methods.grids.paper_values import TABLE2
from tgsr.methods.grids.similarity import Similarity
from tgsr.methods.grids.trainings import GroupTrainer, all_tasks, stoppable
from tgsr.utils.errors import ConfigError, UserError
from tgsr.utils.files import write_json

logger = logging.getLogger("tgsr")


@RUNNERS.register()
class MeasureGroupDrops(Runner):
    """Table 2 -> `group_drops.json`, `oracle.json`: one network for each given group, its drops beside distances.

    `train`, `network_g` and `datasets.train` are the budget of every training, as in `SearchGrouping`; first one for
    each degradation, then one for each group. Started again, it goes on.

    Args:
        similarity: name of a descriptor -> its `similarity*.npz`; the names `descriptor`, `vgg` and `sift` are those
            of the paper's experiments.
        val: set under `datasets.val` that performance is measured on.
        groups: groups of degradations; None: those of Table 2 whose degradations the run has.
        retry_failed: train again what failed before.
        processes: see `SearchGrouping`.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        similarity: dict[str, Path],
        val: str,
        groups: list[list[str]] | None = None,
        retry_failed: bool = False,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.similarity, self.val, self.groups = dict(similarity), val, groups
        self.retry_failed, self.processes = retry_failed, processes

    def run(self) -> None:
        names = all_tasks(self.options).names
        groups = self._groups(names)
        measured = {name: Similarity.load(path) for name, path in self.similarity.items()}
        trainer = GroupTrainer(self.options, self.context, self.folder, val=self.val, processes=self.processes)
        with stoppable(self.context), trainer:
            used = [n for n in names if any(n in g for g in groups)]
            oracle = TrainingOracle(
                used, trainer.memo, trainer, num_parallel=max(2, len(groups)), retry_failed=self.retry_failed
            )  # all are wanted, so all are given to the trainer at once
            singles = oracle.train_singles()
            places = [tuple(map(used.index, g)) for g in groups]
            oracle.prepare(places)
            failed = [g for g, place in zip(groups, places, strict=True) if math.isinf(oracle(place))]
            if self.context.is_main:
                self._write(groups, singles, measured, oracle)
            if failed:
                raise UserError(
                    f"{len(failed)} trainings failed: {', '.join('+'.join(g) for g in failed)}",
                    place=str(trainer.memo.path), remedy="start again with retry_failed: true; the others are kept",
                )  # fmt: skip

    def _groups(self, names: list[str]) -> list[tuple[str, ...]]:
        if self.groups is None:
            return [row.group for row in TABLE2 if set(row.group) <= set(names)]
        unknown = sorted({n for g in self.groups for n in g} - set(names))
        if unknown:
            raise ConfigError(
                f"the run has no degradations {', '.join(unknown)}", place=f"{self.options.name}: run.groups",
                remedy=f"known: {', '.join(names)}",
            )  # fmt: skip
        return [tuple(g) for g in self.groups]

    def _write(
        self,
        groups: list[tuple[str, ...]],
        singles: dict[str, float],
        measured: dict[str, Similarity],
        oracle: TrainingOracle,
    ) -> None:
        rows: list[dict[str, Any]] = []
        for group in groups:
            trained = oracle.memo.get(group)
            drops = {n: singles[n] - trained.psnr[n] for n in group} if trained.status == "ok" else {}
            distances = {k: s.mean_distance(group) for k, s in measured.items()}
            rows.append({"members": list(group), "drops": drops, "distances": distances})
        content = {
            "schema": "tgsr.grids_group_drops",
            "version": 1,
            "options": options_hash(self.options),
            "seed": self.options.manual_seed,
            "single_psnr": singles,
            "groups": rows,
            "protocol": oracle.memo.protocol,
        }
        write_json(self.folder / "group_drops.json", content)
        page = figures.drops_report(content).write(self.folder / "report")
        logger.info("report: %s", page)
