"""Methods on every task: PSNR of each task and of the worst one, over seeds (tables 4 and 5, Figs. 5 and 7)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.options import options_hash, to_plain
from tgsr.config.schema import Options
from tgsr.engine import build
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS, Runner
from tgsr.engine.stages import make_restorer
from tgsr.engine.validation import bicubic, validate
from tgsr.methods.rebalancing.references import References
from tgsr.methods.rebalancing.stages import read_weights
from tgsr.report.builder import Report
from tgsr.report.plots import grouped_bars, weights_over_time
from tgsr.report.tables import Column, Number, Row, Table, aggregate
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import append_jsonl, read_json, read_jsonl, to_json, write_atomic, write_json

logger = logging.getLogger("tgsr")
Values = Mapping[str, Mapping[str, float]]
"""Run label -> task -> metric."""


def by_method(labels: Sequence[str]) -> dict[str, list[str]]:
    """Method -> its runs; `NAME#SEED` is a run of NAME."""
    found: dict[str, list[str]] = {}
    for label in labels:
        found.setdefault(label.split("#")[0], []).append(label)
    return found


def with_summary(
    tasks: Mapping[str, float], single: Mapping[str, float], *, higher_is_better: bool = True
) -> dict[str, float]:
    """Tasks, their `mean`, the `worst` of them, and `lag`: how far at most one is worse than the task's own network."""
    worst, sign = (min, 1) if higher_is_better else (max, -1)
    found = {**tasks, "mean": float(np.mean(list(tasks.values()))), "worst": worst(tasks.values())}
    return {**found, "lag": max(sign * (single[t] - tasks[t]) for t in tasks)} if single else found


def summary_columns(
    tasks: Sequence[str], single: Mapping[str, float], *, group: str = "", higher_is_better: bool = True
) -> list[Column]:
    """Of the values of `with_summary`."""
    columns = [Column(n, n, group, higher_is_better=higher_is_better, digits=3) for n in tasks]
    columns += [Column(n, n, "", higher_is_better=higher_is_better, digits=3) for n in ("mean", "worst")]
    return [*columns, Column("lag", "lag", "", higher_is_better=False, digits=3)] if single else columns


def method_table(
    values: Values,
    tasks: Sequence[str],
    *,
    metric: str,
    caption: str,
    single: Mapping[str, float] | None = None,
    higher_is_better: bool = True,
) -> Table:
    """Methods by tasks, mean, worst task and lag: mean ± sample standard deviation over runs.

    Args:
        values: run -> task -> metric.
        tasks: columns.
        metric: its name.
        caption: of the table.
        single: task -> metric of its own network, for the lag; None: no such column.
        higher_is_better: of the metric.
    """
    single = single or {}
    columns = summary_columns(tasks, single, group=metric, higher_is_better=higher_is_better)
    rows = []
    for method, labels in by_method(list(values)).items():
        chosen = [{t: values[label][t] for t in tasks} for label in labels]
        runs = [with_summary(v, single, higher_is_better=higher_is_better) for v in chosen]
        rows.append(Row(method, {c.name: aggregate([r[c.name] for r in runs]) for c in columns}))
    return Table(columns, rows, caption=caption)


def difference_table(
    values: Values,
    tasks: Sequence[str],
    *,
    baseline: str,
    caption: str,
    single: Mapping[str, float] | None = None,
    higher_is_better: bool = True,
) -> Table:
    """Each run minus the baseline's run of the same seed; mean ± sample standard deviation over seeds."""
    single = single or {}
    columns = summary_columns(tasks, single, higher_is_better=higher_is_better)
    rows = []
    for method, labels in by_method(list(values)).items():
        if method == baseline:
            continue
        pairs = [(label, baseline + label[len(method) :]) for label in labels]
        pairs = [(a, b) for a, b in pairs if b in values]
        if not pairs:
            continue
        found: dict[str, list[float]] = {}
        for a, b in pairs:
            ours, theirs = (
                with_summary({t: values[label][t] for t in tasks}, single, higher_is_better=higher_is_better)
                for label in (a, b)
            )
            for name in ours:
                found.setdefault(name, []).append(ours[name] - theirs[name])
        rows.append(Row(method, {n: aggregate(v) for n, v in found.items()}, is_signed=True))
    return Table(columns, rows, caption=caption)


@RUNNERS.register()
class CompareRebalancing(Runner):
    """Measures checkpoints on every task of the option file -> `comparison.json` and a report.

    What is measured is kept in `measured.jsonl` by the digest of the weights, so that a stopped comparison goes on and
    one with more runs measures the new ones only.

    Args:
        runs: label -> weights; `NAME#SEED` are runs of one method.
        test: name of the validation set that every task degrades.
        baseline: method whose run of the same seed is subtracted, e.g. `uniform`.
        references: `references.json`; its networks are measured on their own tasks (Fig. 7). None: left out.
        weights: title -> `weights.jsonl` to draw (Fig. 5 b).
        variance: `variance.json` to show.
        metric: name of the metric.
    """

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        runs: dict[str, Path],
        test: str,
        baseline: str,
        references: Path | None = None,
        weights: dict[str, Path] | None = None,
        variance: Path | None = None,
        metric: str = "psnr",
    ) -> None:
        super().__init__(options=options, context=context)
        if test not in options.datasets.val:
            raise ConfigError(f"there is no validation set '{test}'", place=f"{options.name}: run.test")
        if metric not in options.val.metrics:
            raise ConfigError(f"there is no metric '{metric}'", place=f"{options.name}: val.metrics")
        if baseline not in by_method(list(runs)):
            raise ConfigError(f"no run is called '{baseline}'", place=f"{options.name}: run.baseline")
        self.runs, self.test, self.baseline, self.references = dict(runs), test, baseline, references
        self.weights, self.variance, self.metric = dict(weights or {}), variance, metric

    def run(self) -> None:
        for label, path in self.runs.items():
            if not path.is_file():
                raise DataError(f"run '{label}' has no weights", place=str(path), remedy="train it first")
        tasks = build.build_tasks(self.options)
        dataset = self.options.datasets.val[self.test].build(scale=self.options.scale, tasks=tasks)
        if self.context.is_main:
            self._repair()
        values: dict[str, dict[str, float]] = {"bicubic": self._measure(None, tasks, dataset)}
        for label, path in self.runs.items():
            values[label] = self._measure(path, tasks, dataset)
        single = self._single(tasks, dataset)
        if not self.context.is_main:
            self.context.barrier()
            return
        metric = build.build_metrics(self.options)[self.metric]
        content = {
            "schema": "tgsr.rebalancing_comparison",
            "version": 1,
            "seed": self.options.manual_seed,
            "options": options_hash(self.options),
            "metric": self.metric,
            "higher_is_better": metric.higher_is_better,
            "protocol": metric.protocol,
            "num_images": len(dataset),
            "baseline": self.baseline,
            "tasks": tasks.names,
            "runs": {k: str(v) for k, v in self.runs.items()},
            "values": values,
            "single": single,
        }
        write_json(self.folder / "comparison.json", content)
        report = comparison_report(
            content,
            weights={title: read_weights(path) for title, path in self.weights.items()},
            variance=None if self.variance is None else read_json(self.variance),
            title=self.options.name,
        )
        page = report.write(Path(self.options.path.results_root) / self.options.name / "report")
        logger.info("report: %s", page)
        self.context.barrier()

    def _repair(self) -> None:
        """Remove a line of `measured.jsonl` that a kill cut, so that the next one does not grow onto it."""
        memo = self.folder / "measured.jsonl"
        if memo.exists():
            lines = "".join(to_json(record) + "\n" for record in read_jsonl(memo))
            write_atomic(memo, lambda file: file.write(lines.encode()))

    def _restorer(self, weights: Path | str) -> Any:
        path = replace(self.options.path, pretrain_network_g=Path(weights))
        return make_restorer(replace(self.options, path=path, train=None), self.context)

    def _measure(self, weights: Path | str | None, tasks: TaskSet, dataset: Any) -> dict[str, float]:
        """Task -> metric of some weights, or of bicubic enlargement."""
        memo, key = self.folder / "measured.jsonl", self._key(weights, tasks)
        known = self.context.from_main({r["key"]: r["values"] for r in read_jsonl(memo)})
        if key in known:
            return known[key]
        restore = bicubic(self.options.scale) if weights is None else self._restorer(weights)
        metrics = {self.metric: build.build_metrics(self.options)[self.metric]}
        found = {t.name: validate(restore, dataset, metrics, self.context, task=t).means()[self.metric] for t in tasks}
        if self.context.is_main:
            append_jsonl(memo, {"key": key, "weights": str(weights), "values": found})
        return found

    def _key(self, weights: Path | str | None, tasks: TaskSet) -> str:
        """What a measurement depends on, as a digest."""
        options = self.options
        state = hashlib.blake2b(digest_size=8)
        settings = [options.network_g, options.datasets.val[self.test], options.val.metrics[self.metric], options.scale]
        state.update(to_json([to_plain(s) for s in settings] + [options.precision, [t.id for t in tasks]]).encode())
        state.update(b"bicubic" if weights is None else Path(weights).read_bytes())
        return state.hexdigest()

    def _single(self, tasks: TaskSet, dataset: Any) -> dict[str, float]:
        if self.references is None:
            return {}
        references = References.load(self.references)
        references.check_tasks(tasks)
        found = {}
        for task in tasks:
            found.update(self._measure(references.weights[task.name], TaskSet([task]), dataset))
        return found


def comparison_report(
    content: Mapping[str, Any],
    *,
    weights: Mapping[str, Sequence[Mapping[str, Any]]],
    variance: Mapping[str, Any] | None,
    title: str,
) -> Report:
    """The page of a `comparison.json`."""
    tasks, values, single = content["tasks"], content["values"], content["single"]
    metric, baseline, is_high = content["metric"], content["baseline"], content["higher_is_better"]
    caption = f"{content['protocol']}; {content['num_images']} images, each degraded by every task."
    report = Report(title, subtitle="Mean ± sample standard deviation over seeds")
    report.section("Every task")
    if single:
        caption += " lag: largest distance of a task to its own network."
    table = method_table(values, tasks, metric=metric, caption=caption, single=single, higher_is_better=is_high)
    if single:
        cells = {n: Number(v) for n, v in with_summary(single, single, higher_is_better=is_high).items()}
        rows = [*table.rows, Row("single-task networks", cells, is_ranked=False)]
        table = Table(table.columns, rows, caption=caption)
    report.add_table("methods", table)
    unit = ", dB" if metric == "psnr" else ""
    caption = f"{metric} minus {baseline} with the same seed{unit}."
    table = difference_table(
        values, tasks, baseline=baseline, caption=caption, single=single, higher_is_better=is_high
    )
    report.add_table("differences", table)
    if single:
        methods = by_method(list(values))
        bars = {
            method: [aggregate([values[label][t] - single[t] for label in labels]) for t in tasks]
            for method, labels in methods.items()
            if method != "bicubic"
        }
        report.section("Against single-task networks")
        report.add_plot(
            "single", grouped_bars(tasks, bars, y_label=f"{metric} minus that of the task's own network{unit}"),
            caption="How far the shared networks are from networks that know one task only (Fig. 7 of the paper).",
        )  # fmt: skip
    if weights:
        _add_weights(report, weights)
    if variance is not None:
        _add_variance(report, variance)
    return report


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


def _add_variance(report: Report, variance: Mapping[str, Any]) -> None:
    report.section("Gradient variance (conclusion 2)")
    columns = [Column("predicted", "Predicted", digits=6), Column("measured", "Measured", digits=6),
               Column("error", "Standard error", digits=6)]  # fmt: skip
    rows = [
        Row(s, {"predicted": Number(e["predicted"]), "measured": Number(e["measured"]),
                "error": Number(e["measured_error"])}, is_ranked=False)
        for s, e in variance["schemes"].items()
    ]  # fmt: skip
    rows += [
        Row(f"re-weighting minus {s}", {"predicted": Number(e["predicted"]), "measured": Number(e["measured"]),
                                        "error": Number(e["measured_error"])}, is_ranked=False, is_signed=True)
        for s, e in variance["differences"].items()
    ]  # fmt: skip
    weights = ", ".join(f"{n} {e['weight']:.3f}" for n, e in variance["tasks"].items())
    caption = f"Variance of single-sample gradients, summed over all coordinates. Weights: {weights}."
    report.add_table("variance", Table(columns, rows, caption=caption, row_head="Scheme"))
