"""All runs of a folder: what there is, how far it is, its numbers; several of them beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tgsr.config.options import diff_options
from tgsr.report import plots
from tgsr.report.artefacts import START, Metrics, RunLog, results_table
from tgsr.report.builder import Report
from tgsr.report.render import fill
from tgsr.report.tables import Column, Row, Table
from tgsr.utils.errors import DataError
from tgsr.utils.files import write_atomic
from tgsr.utils.registry import did_you_mean

EXPERIMENTS, RESULTS = Path("experiments"), Path("results")
_ARCHIVED = re.compile(r"_archived_\d{8}_\d{6}(_\d+)?$")


@dataclass(frozen=True)
class Run:
    """One run, from what it has left behind.

    Attributes:
        experiment, results: its folders; either may be absent.
        iteration, total: how far the training is, where there is one.
        changed: of its newest file.
        numbers: `<data set> <metric> <value>`: of the measured weights, else of the last validation.
    """

    name: str
    experiment: Path
    results: Path
    iteration: int | None
    total: int | None
    changed: datetime
    numbers: Sequence[str] = field(default=())

    @property
    def state(self) -> str:
        """`done`, `measured`, `iteration 400 of 800`."""
        if self.iteration is None:
            return "measured" if (self.results / "metrics.json").exists() else "done"
        if self.total is not None and self.iteration >= self.total:
            return "done"
        return f"iteration {self.iteration}" + ("" if self.total is None else f" of {self.total}")

    @property
    def options(self) -> Mapping[str, Any]:
        """The option file as run; empty where there is none."""
        file = self.experiment / f"{self.experiment.name}.yml"
        content = yaml.safe_load(file.read_text()) if file.exists() else {}
        return content if isinstance(content, dict) else {}

    @property
    def report(self) -> Path:
        return self.results / "report" / "index.html"


def find_runs(experiments: Path = EXPERIMENTS, results: Path = RESULTS) -> list[Run]:
    """All runs below two folders, the one that changed last first; those moved aside are left out."""
    names = {p.parent.relative_to(experiments) for p in Path(experiments).rglob("log.jsonl")}
    names |= {p.parent.relative_to(experiments) for p in Path(experiments).rglob("stage.json")}
    names |= {p.parent.relative_to(results) for p in Path(results).rglob("metrics.json")}
    kept = [name for name in names if not any(_ARCHIVED.search(part) for part in name.parts)]
    runs = [_run(name.as_posix(), Path(experiments) / name, Path(results) / name) for name in kept]
    return sorted(runs, key=lambda run: run.changed, reverse=True)


def find_run(name: str, experiments: Path = EXPERIMENTS, results: Path = RESULTS) -> Run:
    """One of them by its name, or by one of its folders.

    Raises:
        DataError: there is none; with the nearest names.
    """
    runs = {run.name: run for run in find_runs(experiments, results)}
    for candidate in (name.strip("/"), *(_below(name, root) for root in (experiments, results))):
        if candidate in runs:
            return runs[candidate]
    raise DataError(f"there is no run '{name}' in {experiments} and {results}", remedy=did_you_mean(name, runs))


def _below(name: str, root: Path) -> str:
    path, root = Path(name).resolve(), Path(root).resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""


def _run(name: str, experiment: Path, results: Path) -> Run:
    files = [p for p in (experiment / "log.jsonl", experiment / "stage.json", results / "metrics.json") if p.exists()]
    log = RunLog.read(experiment / "log.jsonl")
    iterations = [int(e["iter"]) for e in (*log.train[-1:], *log.val[-1:])]
    numbers = _last_numbers(log)
    if (results / "metrics.json").exists():
        metrics = Metrics.read(results)
        numbers = [
            f"{dataset} {metric} {entry['mean']:.4g}"
            for dataset, content in metrics.datasets.items()
            for metric, entry in content.get("metrics", {}).items()
        ]
    run = Run(
        name, experiment, results, max(iterations, default=None), None,
        datetime.fromtimestamp(max(p.stat().st_mtime for p in files)), numbers,
    )  # fmt: skip
    total = (run.options.get("train") or {}).get("total_iter")
    return Run(**{**vars(run), "total": int(total) if total is not None else None})


def _last_numbers(log: RunLog) -> list[str]:
    last = {event.get("dataset"): event for event in log.val}
    return [f"{name} {k} {v:.4g}" for name, event in last.items() for k, v in event.get("metrics", {}).items()]


def runs_table(runs: Sequence[Run], *, num_numbers: int = 3) -> Table:
    """Name, state, time of the last change and the first numbers of runs."""
    columns = [Column("state", "State"), Column("changed", "Last change"), Column("numbers", "Numbers")]
    rows = [
        Row(r.name, {
            "state": r.state, "changed": f"{r.changed:%Y-%m-%d %H:%M}", "numbers": ", ".join(r.numbers[:num_numbers]),
        })
        for r in runs
    ]  # fmt: skip
    return Table(columns, rows, row_head="Run")


def write_index(experiments: Path = EXPERIMENTS, results: Path = RESULTS) -> Path:
    """`results/index.html`: every run with its state, its numbers and its report."""
    found = find_runs(experiments, results)
    links = [r.report.relative_to(results).as_posix() if r.report.exists() else "" for r in found]
    page = fill("index.html", title="Runs", runs=list(zip(found, links, strict=True)))
    path = Path(results) / "index.html"
    write_atomic(path, lambda file: file.write(page.encode()))
    return path


def diff_runs(a: Run, b: Run) -> list[str]:
    """A line for every option in which two runs differ, `train.total_iter: 1000 -> 2000`; names and folders aside."""
    return [line for line in diff_options(a.options, b.options) if not line.startswith(("name:", "path."))]


def compare_runs(runs: Sequence[Run], folder: Path) -> tuple[Path, Table]:
    """A page with the numbers of several runs, their curves over each other and the options in which they differ.

    Returns:
        The page, and the table of results (empty where none has been measured).

    Raises:
        DataError: fewer than two runs, or they were measured by different protocols.
    """
    if len({run.name for run in runs}) < 2:
        raise DataError("a comparison needs two runs", remedy="tgsr compare A B, with names that tgsr runs lists")
    measured = {run.name: [Metrics.read(run.results)] for run in runs if (run.results / "metrics.json").exists()}
    table = results_table(measured, gain_over=None) if measured else Table([], [])
    report = Report(" and ".join(run.name for run in runs), subtitle="; ".join(f"{r.name}: {r.state}" for r in runs))
    report.section("Results")
    if measured:
        report.add_table("results", table)
    else:
        report.add_text("None of these runs has been measured yet.")
    logs = {run.name: RunLog.read(run.experiment / "log.jsonl") for run in runs}
    _add_curves(report, logs, [m.datasets for found in measured.values() for m in found])
    report.section("Options that differ")
    first, *others = runs
    for other in others:
        differences = "\n".join(diff_runs(first, other)) or "none"
        report.add_code(f"{first.name} -> {other.name}", differences)
    return report.write(folder), table


def _add_curves(
    report: Report, logs: Mapping[str, RunLog], measured: Sequence[Mapping[str, Mapping[str, Any]]]
) -> None:
    report.section("Curves")
    names = dict.fromkeys((m, d) for log in logs.values() for m, sets in log.metrics().items() for d in sets)
    for metric, dataset in names:
        series = {name: log.metrics().get(metric, {}).get(dataset) for name, log in logs.items()}
        found = {name: curve for name, curve in series.items() if curve is not None}
        title = f"{metric} on {dataset}"
        reference = {k: v for k, v in plots.baseline_values(measured, dataset, metric).items() if k != START}
        figure = plots.curves(found, title=title, y_label=metric, reference=reference)
        report.add_plot(f"{metric}_{dataset}", figure, caption=f"{title}.")
    for loss in dict.fromkeys(name for log in logs.values() for name in log.losses()):
        found = {name: log.losses()[loss] for name, log in logs.items() if loss in log.losses()}
        figure = plots.curves(found, title=f"Loss: {loss}", y_label=loss, is_log=True)
        report.add_plot(f"loss_{loss}", figure, caption=f"Loss {loss}, mean over each log interval.")
