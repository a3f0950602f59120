"""Methods on every task: PSNR of each task and of the worst one, over seeds (tables 4 and 5, Figs. 5 b and 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.rebalancing.references import References, few_tasks
from tgsr.methods.rebalancing.stages import read_weights
from tgsr.methods.rebalancing.variance import VarianceFile
from tgsr.report.builder import Report
from tgsr.report.plots import grouped_bars, weights_over_time
from tgsr.report.tables import Column, Number, Row, Table, aggregate
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.compare import summary_table
from tgsr.study.measure import Condition, Subject, measure
from tgsr.study.measurements import Measurement, Measurements
from tgsr.study.rows import Rows, expand, subjects_of, with_sets
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import did_you_mean

OWN = "single-task networks"
"""The row of the references."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Artefact):
    """A `comparison.json`.

    Attributes:
        metric: that was measured.
        baseline: row that is subtracted; None: none.
        measurements: of all runs, of bicubic enlargement, and of the references as the row `OWN`.
    """

    schema: ClassVar[str] = "tgsr.rebalancing_comparison"
    version: ClassVar[int] = 2
    older: ClassVar[tuple[tuple[str, int], ...]] = (("tgsr.rebalancing_comparison", 1),)
    made_by: ClassVar[str] = "CompareRebalancing"

    metric: str
    baseline: str | None
    measurements: Measurements

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "measurements": self.measurements.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Comparison:
        if "values" in data:  # version 1
            return super().from_json({**data, "measurements": _of_values(data)})
        return super().from_json({**data, "measurements": Measurements.from_json(data["measurements"])})


def _of_values(data: Mapping[str, Any]) -> Measurements:
    metric, num = data["metric"], int(data["num_images"])
    labelled = {**data["values"], **({OWN: data["single"]} if data["single"] else {})}
    records = [
        Measurement(*label.partition("#")[::2], "test", task, metric, float(value), num)
        for label, values in labelled.items()
        for task, value in values.items()
    ]
    about = {k: data[k] for k in ("protocol", "higher_is_better")}
    return Measurements(records=records, metrics={metric: about})


@RUNNERS.register()
class CompareRebalancing(Stage):
    """Measures networks on every task of the option file -> `comparison.json` and a report.

    What is measured is kept by the content of the weights, so that a stopped comparison goes on and one with more runs
    measures the new ones only.

    Args:
        runs: label -> weights; `NAME#SEED` are runs of one method. None: nothing is measured, the page shows `weights`.
        test: name of the validation set that every task degrades.
        sets: instead of it, a folder of test sets that are called as the tasks (`BuildBenchmarks`).
        baseline: method whose run of the same seed is subtracted, e.g. `uniform`. None: none.
        references: `references.json`; its networks are measured on their own tasks (Fig. 7). None: left out.
        weights: title -> `weights.jsonl` to draw (Fig. 5 b).
        variance: `variance.json` to show.
        metric: name of the metric.
        num_images: use the first so many images only.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "comparison.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_images": 2, "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        runs: Rows | None = None,
        test: str | None = None,
        sets: Path | None = None,
        baseline: str | None = None,
        references: Path | None = None,
        weights: dict[str, Path] | None = None,
        variance: Path | None = None,
        metric: str = "psnr",
        num_images: PositiveInt | None = None,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.runs = expand(runs or {}, f"{options.name}: run.runs")
        self.test, self.sets, self.baseline, self.references = test, sets, baseline, references
        self.weights, self.variance, self.metric = dict(weights or {}), variance, metric
        self.num_images, self.processes = num_images, processes
        self._check()

    @classmethod
    def smallest(cls, options: Options) -> Options:
        """The tasks that the references of a rehearsal have."""
        return few_tasks(super().smallest(options))

    def _check(self) -> None:
        options, methods = self.options, {label.split("#")[0] for label in self.runs}
        if not self.runs and not self.weights:
            raise ConfigError("there is nothing to compare", place=f"{options.name}: run.runs")
        if not self.runs:
            return
        if (self.test is None) == (self.sets is None):
            remedy = "give test, a set under datasets.val, or sets, a folder of test sets"
            raise ConfigError("one place to measure on is needed", place=f"{options.name}: run.test", remedy=remedy)
        if self.test is not None and self.test not in options.datasets.val:
            remedy = did_you_mean(self.test, options.datasets.val)
            raise ConfigError(
                f"there is no validation set '{self.test}'", place=f"{options.name}: run.test", remedy=remedy
            )
        if self.metric not in options.val.metrics:
            raise ConfigError(f"there is no metric '{self.metric}'", place=f"{options.name}: val.metrics")
        if self.baseline is not None and self.baseline not in methods:
            raise ConfigError(f"no run is called '{self.baseline}'", place=f"{options.name}: run.baseline")

    def work(self) -> None:
        if not self.runs:
            return
        tasks = build.build_tasks(self.options)
        if self.test is not None:
            options, conditions = self.options, [Condition(self.test, task) for task in tasks]
        else:
            assert self.sets is not None
            options, names = with_sets(self.options, self.sets, tasks.names)
            conditions = [Condition(name) for name in names]
        subjects = [Subject("bicubic"), *self._subjects()]
        if self.references is not None:
            references = References.load(self.references)
            references.check_tasks(tasks)
            subjects += [Subject(OWN, Path(references.weights[n]), on=(n,)) for n in tasks.names]
        found = measure(
            subjects, conditions, [self.metric], self.results / "measured.jsonl", options, self.context,
            num_images=self.num_images, processes=self.processes,
        )  # fmt: skip
        if self.context.is_main:
            Comparison(
                metric=self.metric, baseline=self.baseline, measurements=found, **stamp(self.options)
            ).save(self.folder / self.product)  # fmt: skip

    def _subjects(self) -> list[Subject]:
        found = []
        for label, run in self.runs.items():
            there = subjects_of(label, run)
            if there is None:
                place = str(run.weights or run.images)
                raise DataError(f"run '{label}' has no weights", place=place, remedy="train it first")
            found += there
        return found

    def page(self) -> Report:
        report = Report(self.options.name, subtitle="Mean ± sample standard deviation over seeds")
        if self.runs:
            add_comparison(report, Comparison.load(self.folder / self.product))
        if self.weights:
            _add_weights(report, {title: read_weights(path) for title, path in self.weights.items()})
        if self.variance is not None:
            _add_variance(report, VarianceFile.load(self.variance))
        return report


def add_comparison(report: Report, content: Comparison) -> None:
    """Every task, differences to the baseline, and distances to single-task networks."""
    found, metric = content.measurements, content.metric
    own = OWN if OWN in found.names else None
    caption = found.caption() + (" lag: largest distance of a task to its own network." if own else "")
    report.section("Every task")
    report.add_table("methods", summary_table(found, metric, own=own, caption=caption))
    unit = ", dB" if metric == "psnr" else ""
    if content.baseline is not None:
        caption = f"{metric} minus {content.baseline} with the same seed{unit}."
        table = summary_table(found, metric, own=own, baseline=content.baseline, caption=caption)
        report.add_table("differences", table)
    if own is not None:
        single = found.values(own, metric)[""]
        bars = {
            name: [aggregate([run[t] - single[t] for run in found.values(name, metric).values()]) for t in single]
            for name in found.names if name not in ("bicubic", own)
        }  # fmt: skip
        report.section("Against single-task networks")
        report.add_plot(
            "single", grouped_bars(list(single), bars, y_label=f"{metric} minus that of the task's own network{unit}"),
            caption="How far the shared networks are from networks that know one task only (Fig. 7 of the paper).",
        )  # fmt: skip


def _add_weights(report: Report, weights: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    report.section("Task weights")
    for name, records in weights.items():
        if not records:
            continue
        tasks = list(records[0]["sampling"])
        chosen = [r.get("loss", r["sampling"]) for r in records]
        matrix = np.array([[c[t] for t in tasks] for c in chosen])
        plot = weights_over_time([r["iteration"] for r in records], matrix, tasks, title=name, y_label="weight")
        report.add_plot(f"weights_{name}", plot, caption=f"{name}: weights over iterations (Fig. 5 b of the paper).")


def _add_variance(report: Report, variance: VarianceFile) -> None:
    report.section("Gradient variance (conclusion 2)")
    columns = [Column("predicted", "Predicted", digits=6), Column("measured", "Measured", digits=6),
               Column("error", "Standard error", digits=6)]  # fmt: skip
    rows = [
        Row(s, {"predicted": Number(e["predicted"]), "measured": Number(e["measured"]),
                "error": Number(e["measured_error"])}, is_ranked=False)
        for s, e in variance.schemes.items()
    ]  # fmt: skip
    rows += [
        Row(f"re-weighting minus {s}", {"predicted": Number(e["predicted"]), "measured": Number(e["measured"]),
                                        "error": Number(e["measured_error"])}, is_ranked=False, is_signed=True)
        for s, e in variance.differences.items()
    ]  # fmt: skip
    weights = ", ".join(f"{n} {e['weight']:.3f}" for n, e in variance.tasks.items())
    caption = f"Variance of single-sample gradients, summed over all coordinates. Weights: {weights}."
    report.add_table("variance", Table(columns, rows, caption=caption, row_head="Scheme"))
