"""The report of a TGSR experiment: tables, the paper's figures and the worst task before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.methods.tgsr import figures, tables
from tgsr.methods.tgsr.artefacts import (
    SweepResult,
    load_groups,
    load_indicators,
    load_sweep,
)
from tgsr.methods.tgsr.comparison import Comparison
from tgsr.methods.tgsr.evaluation import check_val_set, checkpoint_restorer, pick_val_set, task_images
from tgsr.report.builder import Report
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.tasks.artefacts import load_tasks
from tgsr.utils.errors import ConfigError


@RUNNERS.register()
class GroupingReport(Runner):
    """Gathers the artefacts of a TGSR experiment into `results/<name>/report`. What is not named is left out.

    Args:
        tasks: `tasks.json`; needed for `worst_tasks`.
        indicators: `indicators.jsonl`: histogram, reliability, cost.
        groups: `groups.json`: sizes and Table 6.
        gains: `gains.jsonl` of single-task networks: Figs. 1 and 6 and the rank correlation with z.
        range_gains: the same with `radius` (Fig. 8).
        comparison: `comparison.json`: gains per group and per task (Figs. 7 and 10).
        shown: method that Fig. 10, the list of tasks and the images show. None: the last one.
        worst_tasks: number of tasks, worst z first, shown as images; needs `val`, `tasks`, `indicators`, `comparison`.
        val: validation set of those images.
        studies: label -> `indicators.jsonl` of sweeps over the same tasks with `study: true`; labels `NAME#SEED`. Gives
            the rank agreement of every estimator between seeds, and with `gains` the correlation with the truth.
        share: selected share, marked in the histogram.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path | None = None,
        indicators: Path | None = None,
        groups: Path | None = None,
        gains: Path | None = None,
        range_gains: Path | None = None,
        comparison: Path | None = None,
        shown: str | None = None,
        worst_tasks: int = 2,
        val: str | None = None,
        studies: dict[str, Path] | None = None,
        share: float = 0.4,
    ) -> None:
        super().__init__(options=options, context=context)
        if val is not None:
            check_val_set(options, val)
        self.tasks, self.groups, self.shown, self.val = tasks, groups, shown, val
        self.paths = {"indicators": indicators, "gains": gains, "range_gains": range_gains, "comparison": comparison}
        self.worst_tasks, self.studies, self.share = worst_tasks, studies or {}, share

    def run(self) -> None:
        if self.context.is_main:
            paths = self.paths
            indicators = None if paths["indicators"] is None else load_indicators(paths["indicators"])
            gains = None if paths["gains"] is None else load_sweep(paths["gains"], "tgsr.gains")
            ranges = None if paths["range_gains"] is None else load_sweep(paths["range_gains"], "tgsr.gains")
            comparison = None if paths["comparison"] is None else Comparison.load(paths["comparison"])
            report = Report(self.options.name, subtitle="Task grouping")
            self._indicator(report, indicators, gains)
            self._studies(report, gains)
            self._groups(report)
            self._comparison(report, comparison, gains)
            if gains is not None and ranges is not None:
                figure = figures.point_against_range(gains, ranges)
                report.section("A range of similar tasks").add_plot("fig8", figure, caption="As Fig. 8.")
            self._images(report, indicators, comparison)
            report.write(Path(self.options.path.results_root) / self.options.name / "report")
        self.context.barrier()

    def _indicator(self, report: Report, indicators: SweepResult | None, gains: SweepResult | None) -> None:
        if indicators is None:
            return
        report.section("Performance indicator").add_table("indicator", tables.indicator_table(indicators))
        figure = figures.indicator_histogram(indicators, share=self.share)
        report.add_plot("fig9", figure, caption="Histogram of z, as Fig. 9.")
        if gains is None:
            return
        report.add_table("correlation", tables.correlation_table(indicators, gains))
        report.add_plot("fig1", figures.gain_bars(gains), caption="True gains of single-task networks, as Fig. 1.")
        figure = figures.indicator_against_gain(indicators, gains)
        report.add_plot("indicator_and_gain", figure, caption="What z predicts and what happens.")
        report.add_plot("fig6", figures.low_and_high_indicator(indicators, gains), caption="As Fig. 6.")

    def _studies(self, report: Report, gains: SweepResult | None) -> None:
        if not self.studies:
            return
        sweeps = {label: load_indicators(path) for label, path in self.studies.items()}
        report.section("Which estimator of z")
        report.add_table("estimators", tables.estimator_table(sweeps, gains))

    def _groups(self, report: Report) -> None:
        if self.groups is None:
            return
        groups = load_groups(self.groups)
        report.section("Groups").add_table("groups", tables.group_table(groups))
        if groups.rounds:
            title = "PIS in each round, as Table 6"
            report.add_table("table6", tables.round_table(groups), title=title, is_folded=True)

    def _comparison(self, report: Report, comparison: Comparison | None, gains: SweepResult | None) -> None:
        if comparison is None:
            return
        shown = self._shown(comparison)
        methods = [m for m in comparison.runs() if m != comparison.data["baseline"]]
        report.section("Gain over the pre-trained network").add_table("gains", tables.gain_table(comparison))
        report.add_plot("fig7", figures.gain_per_group(comparison, methods), caption="As Fig. 7.")
        report.add_table("tasks", tables.task_table(comparison), title="Every grouped task", is_folded=True)
        if gains is not None:
            figure = figures.single_against_grouped(gains, comparison, shown)
            report.add_plot("fig10", figure, caption="Single-task networks and TGSR, as Fig. 10.")

    def _shown(self, comparison: Comparison) -> str:
        methods = list(comparison.runs())
        if self.shown is not None and self.shown not in methods:
            place = f"{self.options.name}: run.shown"
            raise ConfigError(f"there is no method '{self.shown}'", place=place, remedy=f"known: {', '.join(methods)}")
        return self.shown or methods[-1]

    def _images(self, report: Report, indicators: SweepResult | None, comparison: Comparison | None) -> None:
        """Strips LQ | pre-trained | TGSR | GT of the tasks with the lowest z that are in a group."""
        if indicators is None or comparison is None or self.val is None or self.tasks is None or not self.worst_tasks:
            return
        shown = self._shown(comparison)
        checkpoints = comparison.data["checkpoints"]
        labels = {comparison.data["baseline"]: comparison.data["baseline"], shown: comparison.runs()[shown][0]}
        restorers = {k: checkpoint_restorer(self.options, checkpoints[v], self.context) for k, v in labels.items()}
        tasks, z = load_tasks(self.tasks), indicators.values("z")
        grouped = {t for members in comparison.groups().values() for t in members}
        worst = sorted(grouped, key=lambda n: z.get(n, np.inf))[: self.worst_tasks]
        dataset = pick_val_set(self.options, self.val)
        report.section("The worst tasks, before and after")
        for name in worst:
            batch = task_images(dataset, tasks[tasks.index(name)])[0]
            assert batch.lq is not None
            assert batch.gt is not None
            images = {k: restore(batch.lq).clamp(0, 1).cpu() for k, restore in restorers.items()}
            report.add_strip(name, strip(batch.lq, images, batch.gt), caption=f"{name}, z = {z[name]:.3f}")


def strip(lq: torch.Tensor, restored: Mapping[str, torch.Tensor], gt: torch.Tensor) -> bytes:
    """LQ | each restored form | GT of the image of a batch on which the last form differs most from the first.

    Args:
        lq, gt: `(B, 3, h, w)` and `(B, 3, H, W)`.
        restored: label -> `(B, 3, H, W)`.
    """
    forms: Sequence[torch.Tensor] = list(restored.values())
    which = int((forms[-1] - forms[0]).abs().mean((1, 2, 3)).argmax())
    scale = gt.shape[2] // lq.shape[2]
    size = min(64, gt.shape[2], gt.shape[3])
    top, left = choose_crop(forms[-1][which], forms[0][which], size=size, multiple=scale)
    panels = [Panel("LQ", lq[which].cpu())]
    panels += [Panel(label, image[which]) for label, image in restored.items()]
    panels.append(Panel("GT", gt[which].cpu()))
    return make_strip(panels, crop=(top, left, size))
