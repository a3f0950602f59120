"""The report of a TGSR experiment: tables, the paper's figures and the worst task before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.tgsr import figures, tables
from tgsr.methods.tgsr.artefacts import GAINS, Groups, SweepResult, load_indicators, load_sweep
from tgsr.methods.tgsr.comparison import Comparison
from tgsr.methods.tgsr.evaluation import check_val_set, task_images
from tgsr.report.builder import Report
from tgsr.report.strips import Panel, choose_crop, make_strip
from tgsr.study.measure import Subject, make_restorer, open_set
from tgsr.study.paper import TableFile
from tgsr.study.printed import find_table, printed
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import did_you_mean

PAPER = "tgsr"


@RUNNERS.register()
class GroupingReport(Stage):
    """Gathers the artefacts of a TGSR experiment into `results/<name>/report`. What is not named is left out.

    Artefacts of other tasks or other weights than the rest are refused.

    Args:
        tasks: `tasks.json`; needed for `worst_tasks`.
        indicators: `indicators.jsonl`, or label -> such files: histogram (Fig. 9), reliability, cost.
        groups: `groups.json`: sizes and Table 6.
        paper: whose printed sizes stand beside those of the groups: `5G`, `8G` or `10G`; with the printed Table 6.
        gains: `gains.jsonl` of single-task networks, or label -> such files (two readings of Fig. 1): Figs. 1 and 6 and
            the rank correlation with z.
        range_gains: the same with `radius` (Fig. 8).
        low_gains: those of the tasks of lowest z (Fig. 6); needs `high_gains`.
        high_gains: those of the tasks of highest z.
        comparison: `comparison.json`: gains per group and per task (Figs. 7 and 10).
        table: `table.json` of a `PaperTable` with `gain_over`: gains per set (Fig. 7).
        shown: method that Fig. 10, the list of tasks and the images show. None: the last one.
        worst_tasks: number of tasks, worst z first, shown as images; needs `val`, `tasks`, `indicators`, `comparison`.
        val: validation set of those images.
        studies: label -> `indicators.jsonl` of sweeps over the same tasks with `study: true`; labels `NAME#SEED`. Gives
            the rank agreement of every estimator between seeds, and with `gains` the correlation with the truth.
        share: selected share, marked in the histogram.
    """

    in_results = True
    product = "report/index.html"

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path | None = None,
        indicators: Path | dict[str, Path] | None = None,
        groups: Path | None = None,
        paper: str | None = None,
        gains: Path | dict[str, Path] | None = None,
        range_gains: Path | None = None,
        low_gains: Path | None = None,
        high_gains: Path | None = None,
        comparison: Path | None = None,
        table: Path | None = None,
        shown: str | None = None,
        worst_tasks: int = 2,
        val: str | None = None,
        studies: dict[str, Path] | None = None,
        share: float = 0.4,
    ) -> None:
        super().__init__(options=options, context=context)
        if val is not None:
            check_val_set(options, val)
        sizes = printed(PAPER).stated["group_sizes"]
        if paper is not None and paper not in sizes:
            problem, remedy = f"the paper has no groups '{paper}'", did_you_mean(paper, sizes)
            raise ConfigError(problem, place=f"{options.name}: run.paper", remedy=remedy)
        if (low_gains is None) != (high_gains is None):
            raise ConfigError("give both low_gains and high_gains", place=f"{options.name}: run.low_gains")
        self.tasks, self.shown, self.val, self.worst_tasks, self.share = tasks, shown, val, worst_tasks, share
        self.sizes = None if paper is None else sizes[paper]
        self._paths = {"indicators": _named(indicators), "gains": _named(gains), "studies": studies or {}}
        self._ends = {"lowest z": low_gains, "highest z": high_gains}
        self._groups, self._range, self._comparison, self._table = groups, range_gains, comparison, table

    def work(self) -> None:
        """Nothing: the page is the product, made from artefacts alone."""

    def page(self) -> Report:
        self._load()
        check_together(self)
        report = Report(self.options.name, subtitle="Task grouping")
        for add in (
            self._add_indicators, self._add_gains, self._add_studies, self._add_groups, self._add_comparison,
            self._add_range, self._add_table, self._add_images,
        ):  # fmt: skip
            add(report)
        return report

    def _load(self) -> None:
        paths = self._paths
        self.indicators = {k: load_indicators(p) for k, p in paths["indicators"].items()}
        self.gains = {k: load_sweep(p, GAINS) for k, p in paths["gains"].items()}
        self.studies = {k: load_indicators(p) for k, p in paths["studies"].items()}
        self.ends = {k: load_sweep(p, GAINS) for k, p in self._ends.items() if p is not None}
        self.range = None if self._range is None else load_sweep(self._range, GAINS)
        self.groups = None if self._groups is None else Groups.load(self._groups)
        self.comparison = None if self._comparison is None else Comparison.load(self._comparison)
        self.table = None if self._table is None else TableFile.load(self._table)

    @property
    def z(self) -> SweepResult | None:
        """The first indicators."""
        return next(iter(self.indicators.values()), None)

    @property
    def truth(self) -> SweepResult | None:
        """The first gains."""
        return next(iter(self.gains.values()), None)

    def _add_indicators(self, report: Report) -> None:
        for label, sweep in self.indicators.items():
            report.section(f"Performance indicator{label and f': {label}'}")
            report.add_table("indicator", tables.indicator_table(sweep))
            figure = figures.indicator_histogram(sweep, share=self.share)
            report.add_plot("fig9", figure, caption="Histogram of z, as Fig. 9.")

    def _add_gains(self, report: Report) -> None:
        if self.z is not None and self.truth is not None:
            report.section("True gains").add_table("correlation", tables.correlation_table(self.z, self.truth))
            figure = figures.indicator_against_gain(self.z, self.truth)
            report.add_plot("indicator_and_gain", figure, caption="What z predicts and what happens.")
            report.add_plot("fig6", figures.low_and_high_indicator(self.z, self.truth), caption="As Fig. 6.")
        is_apart = self.range is not None or self.comparison is not None or bool(self.studies)
        if self.z is not None or not is_apart:
            for label, sweep in self.gains.items():
                caption = f"True gains of single-task networks, as Fig. 1{label and f'; shared network: {label}'}."
                report.section("Single-task networks").add_plot("fig1", figures.gain_bars(sweep), caption=caption)
        if self.ends:
            report.section("Single-task networks by indicator")
            report.add_plot("fig6", figures.two_ends(self.ends), caption="As Fig. 6.")
            report.add_table("fig6_numbers", tables.ends_table(self.ends, printed(PAPER).stated["figure_6"]))

    def _add_studies(self, report: Report) -> None:
        if self.studies:
            report.section("Which estimator of z")
            report.add_table("estimators", tables.estimator_table(self.studies, self.truth))

    def _add_groups(self, report: Report) -> None:
        if self.groups is None:
            return
        report.section("Groups").add_table("groups", tables.group_table(self.groups, sizes=self.sizes))
        if self.groups.rounds:
            title = "PIS in each round, as Table 6"
            report.add_table("table6", tables.round_table(self.groups), title=title, is_folded=self.sizes is None)
        if self.sizes is not None:
            table = find_table(f"{PAPER}/6")
            note = "The paper's tasks, which are not published, so they are not those above."
            report.add_table("printed6", table.beside({}, caption=note), title=f"The paper's {table.title}")

    def _add_comparison(self, report: Report) -> None:
        comparison = self.comparison
        if comparison is None:
            return
        shown = self._method(comparison)
        methods = [m for m in comparison.runs() if m != comparison.data["baseline"]]
        report.section("Gain over the pre-trained network")
        if comparison.groups():
            report.add_table("gains", tables.gain_table(comparison))
            report.add_plot("fig7", figures.gain_per_group(comparison, methods), caption="As Fig. 7.")
            report.add_table("tasks", tables.task_table(comparison), title="Every grouped task", is_folded=True)
        if self.truth is not None:
            stated = printed(PAPER).stated["figure_10"]
            for metric in [m for m in self.truth.metrics() if m in comparison.metrics()]:
                figure = figures.single_against_grouped(self.truth, comparison, shown, metric=metric)
                name = "fig10" if metric == "psnr" else f"fig10_{metric}"
                report.add_plot(name, figure, caption="Single-task networks and TGSR, as Fig. 10.")
            report.add_table("fig10_numbers", tables.single_table(self.truth, comparison, shown, stated))

    def _method(self, comparison: Comparison) -> str:
        methods = list(comparison.runs())
        if self.shown is not None and self.shown not in methods:
            place = f"{self.options.name}: run.shown"
            raise ConfigError(f"there is no method '{self.shown}'", place=place, remedy=f"known: {', '.join(methods)}")
        return self.shown or methods[-1]

    def _add_range(self, report: Report) -> None:
        if self.truth is not None and self.range is not None:
            figure = figures.point_against_range(self.truth, self.range)
            report.section("A range of similar tasks").add_plot("fig8", figure, caption="As Fig. 8.")

    def _add_table(self, report: Report) -> None:
        table = self.table
        if table is None:
            return
        if table.gain_over is None:
            problem, remedy = "the table has no gain_over", "name the row that gains are over, there"
            raise DataError(problem, place=str(self._table), remedy=remedy)
        report.section("Gain on each set").add_table("gains", table.measurements.paired(table.gain_over))
        for metric in dict.fromkeys(r.metric for r in table.measurements.records):
            figure = figures.gain_per_set(table.measurements, table.gain_over, metric)
            report.add_plot(f"fig7_{metric}", figure, caption="As Fig. 7.")
        report.add_text("\n".join(f"- {note}" for note in table.notes()))

    def _add_images(self, report: Report) -> None:
        """Strips LQ | pre-trained | TGSR | GT of the tasks with the lowest z that are in a group."""
        comparison, z = self.comparison, self.z
        if z is None or comparison is None or self.val is None or self.tasks is None or not self.worst_tasks:
            return
        shown, checkpoints = self._method(comparison), comparison.data["checkpoints"]
        labels = {comparison.data["baseline"]: comparison.data["baseline"], shown: comparison.runs()[shown][0]}
        subjects = {k: Subject(k, Path(checkpoints[v])) for k, v in labels.items()}
        restorers = {k: make_restorer(self.options, subject, self.context) for k, subject in subjects.items()}
        tasks, values = load_tasks(self.tasks), z.values("z")
        grouped = {t for members in comparison.groups().values() for t in members}
        worst = sorted(grouped, key=lambda n: values.get(n, np.inf))[: self.worst_tasks]
        dataset = open_set(self.options, self.val)
        report.section("The worst tasks, before and after")
        for name in worst:
            batch = task_images(dataset, tasks[tasks.index(name)])[0]
            assert batch.lq is not None
            assert batch.gt is not None
            images = {k: restore(batch.lq).clamp(0, 1).cpu() for k, restore in restorers.items()}
            report.add_strip(name, strip(batch.lq, images, batch.gt), caption=f"{name}, z = {values[name]:.3f}")


def _named(paths: Path | Mapping[str, Path] | None) -> dict[str, Path]:
    return {} if paths is None else dict(paths) if isinstance(paths, Mapping) else {"": paths}


def check_together(report: GroupingReport) -> None:
    """DataError where artefacts of one report are of other tasks, or of other weights where that means something."""
    sweeps = [*report.indicators.values(), *report.gains.values(), *report.studies.values(), *report.ends.values()]
    sweeps += [] if report.range is None else [report.range]
    known: dict[str, tuple[str, str]] = {}
    for sweep in sweeps:
        for name, digest in sweep.ids.items():
            first, place = known.setdefault(name, (digest, sweep.place))
            if first != digest:
                raise DataError(f"its '{name}' is another degradation than that of {place}", place=sweep.place)
    for one, other, what in _pairs_of_weights(report):
        if one[0] is not None and other[0] is not None and one[0] != other[0]:
            remedy = "measure both from the same weights"
            raise DataError(f"{what} are of other weights than {other[1]}", place=one[1], remedy=remedy)
    digests = {str(s.header["tasks"]): s.place for s in list(report.indicators.values())[:1]}
    if report.groups is not None:
        digests.setdefault(report.groups.tasks, str(report._groups))
    if report.comparison is not None:
        digests.setdefault(report.comparison.data["tasks"], str(report._comparison))
    is_same_set = report.comparison is None or report.comparison.data["groups"] or report.z is not None
    if len(digests) > 1 and is_same_set:
        first, second = list(digests.values())[:2]
        raise DataError(f"belongs to other tasks than {first}", place=second, remedy="name artefacts of one task set")
    if report.range is not None and report.truth is not None and set(report.range.names) != set(report.truth.names):
        problem, remedy = f"its tasks are not those of {report.truth.place}", "give both stages the same num_tasks"
        raise DataError(problem, place=report.range.place, remedy=remedy)


Weights = tuple[str | None, str]
"""Digest and place."""


def _pairs_of_weights(report: GroupingReport) -> Iterator[tuple[Weights, Weights, str]]:
    """Those that must be equal, and what the first are."""

    def of(sweep: SweepResult) -> Weights:
        return sweep.weights, sweep.place

    z, truth = report.z, report.truth
    if truth is not None:
        yield from ((of(s), of(truth), "indicators") for s in ([] if z is None else [z]))
        yield from ((of(s), of(truth), "indicators") for s in report.studies.values())
        if report.range is not None:
            yield of(report.range), of(truth), "gains"
        if report.comparison is not None:
            yield (report.comparison.weights, str(report._comparison)), of(truth), "gains over the baseline"
    ends = list(report.ends.values())
    yield from ((of(s), of(ends[0]), "gains") for s in ends[1:])
    if z is not None:
        yield from ((of(s), of(z), "gains") for s in ends[:1])
        pretrained = report.groups.about.get("pretrained") if report.groups is not None else None
        if isinstance(pretrained, Mapping):
            yield (pretrained.get("digest"), str(report._groups)), of(z), "groups"


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
