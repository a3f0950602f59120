"""Benchmarks of the groups (DIV2K5G, 8G, 10G, DIV2K_random) and tables of checkpoints over them (Tables 1-5 and 7)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, OutputPath, PositiveInt
from tgsr.engine.build import build_val_sets
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.validation import evaluate
from tgsr.methods.tgsr.evaluation import checkpoint_restorer, pick_metrics
from tgsr.metrics.base import Metric
from tgsr.report.artefacts import Metrics, results_table
from tgsr.report.builder import Report
from tgsr.study.data_stages import BuildBenchmarks, Group0
from tgsr.study.printed import printed
from tgsr.utils.errors import ConfigError, DataError, UserError
from tgsr.utils.files import file_digest, read_json, write_json

logger = logging.getLogger("tgsr")
PAPER_TABLES = ("TABLE_1", "TABLE_2", "TABLE_3", "TABLE_4", "TABLE_5", "TABLE_7")


@RUNNERS.register()
class BuildGroupBenchmarks(BuildBenchmarks):
    """`BuildBenchmarks` of groups by its older name.

    Args:
        tasks: `tasks.json`.
        groups: `groups.json`.
        gt: folder of HR images (DIV2K validation in the paper).
        target: folder of the sets.
        num_pairs: images of each set (100 in the paper).
        group0: see `BuildBenchmarks`.
        seed: of the draws.
        num_workers: processes.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path,
        groups: Path,
        gt: Path,
        target: OutputPath,
        num_pairs: PositiveInt = 100,
        group0: Group0 | None = None,
        seed: NonNegativeInt = 0,
        num_workers: PositiveInt = 1,
    ) -> None:
        super().__init__(
            options=options, context=context, tasks=tasks, groups=groups, gt=gt, output=target, num_images=num_pairs,
            group0=group0, seed=seed, num_workers=num_workers,
        )  # fmt: skip


@RUNNERS.register()
class CompareOnBenchmarks(Runner):
    """Measures checkpoints on the sets under `datasets.val` -> a table of the paper's shape, its values beside ours.

    Each checkpoint's `metrics.json` is written when it is done and not measured again. A metric whose weights cannot be
    had (LPIPS without network) is left out with a warning.

    Args:
        checkpoints: label -> weights. `NAME#SEED` is one of several runs of NAME: the table has their mean and spread.
        table: the paper's table to stand beside: `TABLE_1` to `TABLE_5` or `TABLE_7`. None: no paper values.
        paper_rows: label -> row of that table. None: rows of the same name.
        save_images: keep restored images.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        checkpoints: dict[str, Path],
        table: str | None = None,
        paper_rows: dict[str, str] | None = None,
        save_images: bool = False,
    ) -> None:
        super().__init__(options=options, context=context)
        if not checkpoints:
            raise ConfigError("there is no checkpoint to measure", place=f"{options.name}: run.checkpoints")
        if table is not None and table not in PAPER_TABLES:
            remedy = f"known: {', '.join(PAPER_TABLES)}"
            raise ConfigError(f"there is no table '{table}'", place=f"{options.name}: run.table", remedy=remedy)
        self.checkpoints, self.table, self.save_images = checkpoints, table, save_images
        self.paper_rows = paper_rows

    def run(self) -> None:
        metrics = usable_metrics(pick_metrics(self.options), self.context.device)
        sets = build_val_sets(self.options)
        done: dict[str, list[Metrics]] = {}
        for label, checkpoint in self.checkpoints.items():
            folder = self.results / label.replace("#", "_").replace(" ", "_")
            if not self._is_there(folder, label, checkpoint, metrics):
                restore = checkpoint_restorer(self.options, checkpoint, self.context)
                stamp = self._stamp(label, checkpoint)
                content = evaluate(
                    restore, sets, metrics, self.context,
                    results=folder, scale=self.options.scale, stamp=stamp, save_images=self.save_images,
                )  # fmt: skip
                if self.context.is_main:
                    write_json(folder / "metrics.json", content)
                self.context.barrier()
            if self.context.should_stop():
                return
            done.setdefault(label.split("#")[0], []).append(Metrics.read(folder))
        if self.context.is_main:
            self._report(done)
        self.context.barrier()

    def _stamp(self, label: str, checkpoint: Path) -> dict[str, Any]:
        stamp = {"name": label, "options": options_hash(self.options)}
        return {**stamp, "weights": str(checkpoint), "weights_digest": file_digest(checkpoint)}

    def _is_there(self, folder: Path, label: str, checkpoint: Path, metrics: Mapping[str, Metric]) -> bool:
        """Whether these weights were measured with these options and at least these metrics."""
        try:
            found = read_json(folder / "metrics.json")
        except DataError:
            return False
        same = all(found.get(k) == v for k, v in self._stamp(label, checkpoint).items())
        return same and all(set(metrics) <= set(d["metrics"]) for d in found["datasets"].values())

    def _report(self, done: Mapping[str, list[Metrics]]) -> None:
        paper = {} if self.table is None else self._paper_values(list(done))
        table = results_table(done, paper=paper, gain_over=None)
        report = Report(self.options.name, subtitle=self.table.replace("_", " ").title() if self.table else "")
        report.section("Results").add_table("results", table)
        if paper:
            report.add_text("A value after a stroke is the paper's; it was measured on the paper's own test sets.")
        report.write(self.results / "report")

    def _paper_values(self, labels: list[str]) -> dict[str, dict[str, float]]:
        """Label -> `<set>/<metric>` -> value."""
        assert self.table is not None
        table = printed("tgsr").table(self.table.removeprefix("TABLE_")).rows
        rows = self.paper_rows or {label: label for label in labels}
        unknown = [row for row in rows.values() if row not in table and self.paper_rows is not None]
        if unknown:
            problem = f"{self.table} has no row '{unknown[0]}'"
            place = f"{self.options.name}: run.paper_rows"
            raise ConfigError(problem, place=place, remedy=f"known: {', '.join(table)}")
        return {label: dict(table.get(row, {})) for label, row in rows.items()}


def usable_metrics(metrics: Mapping[str, Metric], device: torch.device) -> dict[str, Metric]:
    """The metrics that work here; one whose weights cannot be had is left out with a warning."""
    probe = torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    kept = {}
    for name, metric in metrics.items():
        try:
            metric(probe, probe.flip(2))
        except UserError as error:
            logger.warning("metric '%s' is left out: %s", name, error)
        else:
            kept[name] = metric
    if not kept:
        raise ConfigError("none of the metrics can be computed here", place="val.metrics")
    return kept
