"""The reports of runs: one run (`write_run_report`), and several methods over several seeds (`write_comparison`)."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tgsr import __version__
from tgsr.report import plots
from tgsr.report.artefacts import START, Metrics, RunLog, image_table, protocol_caption, results_table, starts_of
from tgsr.report.builder import Report
from tgsr.report.expectations import Expectation
from tgsr.report.strips import before_and_after, choose_images, gain_of, strip_of, time_strips
from tgsr.report.tables import Column, Number, Row, Table, difference_row
from tgsr.utils.errors import DataError
from tgsr.utils.text import clock

MAX_STRIPS = 3
PACKAGES = ("torch", "torchvision", "numpy", "lpips", "matplotlib")


def write_run_report(
    experiment: Path, results: Path, *, expectations: Sequence[Expectation] = (), num_strips: int = MAX_STRIPS
) -> Path:
    """The report of one run from what it left behind; what is absent is left out and said.

    Args:
        experiment: `experiments/<name>`: `log.jsonl` and the option file as run.
        results: `results/<name>`: `metrics.json` and images; the report goes to `report/` in it.
        expectations: what the paper states, by `<data set>/<metric>`.
        num_strips: image strips per data set, at most.

    Returns:
        The path of `report/index.html`.

    Raises:
        DataError: there is neither a log nor a metrics file, or the metrics file is damaged.
    """
    experiment, results = Path(experiment), Path(results)
    log = RunLog.read(experiment / "log.jsonl")
    metrics = Metrics.read(results) if (results / "metrics.json").exists() else None
    if metrics is None and not log:
        raise DataError(
            f"there is nothing to report: no metrics.json here, no log.jsonl in {experiment}",
            place=str(results),
            remedy="run train.py or test.py first",
        )
    name = metrics.name if metrics is not None else experiment.name
    report = Report(name, subtitle=_subtitle(log, metrics)).add_facts(_facts(experiment, log, metrics))
    if metrics is None:
        report.add_text("This run was not tested yet: there is no `metrics.json`. A training writes it at its end.")
    else:
        _add_results(report, metrics, expectations)
    _add_training(report, log, metrics)
    _add_pictures_over_time(report, experiment / "visualization")
    if metrics is not None:
        _add_images(report, metrics, num_strips)
    _add_conditions(report, experiment, log, metrics)
    return report.write(results / "report")


def _subtitle(log: RunLog, metrics: Metrics | None) -> str:
    parts = []
    tested = {} if metrics is None else metrics.stamp
    if tested.get("iteration") is not None:
        parts.append(f"weights of iteration {tested['iteration']}")
    elif tested.get("weights"):
        parts.append(f"weights {tested['weights']}")
    if log.train and (metrics is None or tested.get("iteration") is not None):  # else others may have been tested
        parts.append(f"trained to iteration {log.train[-1]['iter']}")
    if metrics is not None and metrics.datasets:
        parts.append("tested on " + ", ".join(metrics.datasets))
    return "; ".join(parts)


def _facts(experiment: Path, log: RunLog, metrics: Metrics | None) -> dict[str, str]:
    """Size, time, precision, command and revision, as far as they are known."""
    starts, seconds = starts_of(experiment, log)
    last = starts[-1] if starts else {}
    peak = max(log.scalar("peak_memory_gib")[1], default=0.0)
    number = f", {len(starts)} starts" if len(starts) > 1 else ""
    stamp = {} if metrics is None else metrics.stamp
    return {
        "Network": str(last.get("networks", "")),
        "Data": str(last.get("data", "")),
        "Time of the training": f"{clock(seconds)}{number}" if seconds else "",
        "Device": str(last.get("device", "")) or str(stamp.get("precision") or ""),
        "Peak memory of the GPU": f"{peak:.2f} GiB" if peak else "",
        "Revision": str(last.get("revision", "")),
        "Command": str(last.get("command", "")),
    }


def _add_results(report: Report, metrics: Metrics, expectations: Sequence[Expectation]) -> None:
    label = metrics.name
    table = results_table({label: [metrics]}, gain_over=_baseline(metrics))
    report.section("Results").add_numbers(_headline(table, label, _baseline(metrics)))
    report.add_table("results", table)
    if expectations:
        ours = next(r for r in table.rows if r.label == label)
        measured = {n: c for n, c in ours.cells.items() if isinstance(c, Number)}
        report.section("Against the paper").add_expectations("expectations", expectations, measured)


def _baseline(metrics: Metrics) -> str | None:
    """What gains are taken over: the network that the run started from, where there is one, or else bicubic."""
    found = [b for content in metrics.datasets.values() for b in content.get("baselines", {})]
    return START if START in found else next(iter(found), None)


def _headline(table: Table, label: str, baseline: str | None) -> dict[str, str]:
    """The first metric of up to four data sets, with the gain over the baseline."""
    ours = next(r for r in table.rows if r.label == label)
    base = next((r for r in table.rows if r.label == baseline), None)
    gains = difference_row("", ours, base).cells if base is not None else {}
    tiles: dict[str, str] = {}
    seen = set()
    for column in table.columns:
        cell = ours.cells.get(column.name)
        if column.group in seen or not isinstance(cell, Number) or len(tiles) == 4:
            continue
        seen.add(column.group)
        digits, gain = table.digits(column), gains.get(column.name)
        note = f" ({gain.text(digits, is_signed=True)} to {baseline})" if isinstance(gain, Number) else ""
        tiles[f"{column.label} on {column.group}{note}"] = cell.text(digits)
    return tiles


def _add_training(report: Report, log: RunLog, metrics: Metrics | None) -> None:
    if not log:
        return
    report.section("Training")
    if log.num_damaged:
        lines = "line" if log.num_damaged == 1 else "lines"
        report.add_text(f"{log.num_damaged} damaged {lines} of `log.jsonl` left out (a killed writer leaves one).")
    report.add_plot("losses", plots.plot_losses(log), caption="Training losses, mean over each log interval.")
    for metric, figure in plots.plot_metrics(log, {} if metrics is None else metrics.datasets).items():
        report.add_plot(f"val_{metric}", figure, caption=f"{metric} on the validation sets while training.")
    report.add_plot("task_losses", plots.plot_task_losses(log), caption="Mean loss of each task's samples.")
    report.add_plot("learning_rate", plots.plot_learning_rate(log), caption="Learning rate.")
    report.add_plot("speed", plots.plot_speed(log), caption="Images per second, and time spent waiting for data.")
    caption = "Mean output of the discriminator for real and for restored images; where they part, it has won."
    report.add_plot("discriminator", plots.plot_discriminator(log), caption=caption)
    report.add_plot("gradients", plots.plot_gradients(log), caption="Norms of the gradients before clipping.")
    counts = log.task_counts()
    if len(counts) > 1:
        last = {task: ys[-1] for task, (_, ys) in log.task_losses().items()}
        rows = [
            Row(t, {"samples": Number(n), "loss": Number(last[t]) if t in last else None}) for t, n in counts.items()
        ]
        columns = [Column("samples", "samples seen", digits=0), Column("loss", "last loss", digits=4)]
        table = Table(columns, rows, row_head="Task")
        report.add_table("tasks", table, title="Samples and loss by task", is_folded=True)


def _add_pictures_over_time(report: Report, folder: Path) -> None:
    found = {part.name: time_strips(part) for part in sorted(folder.glob("*")) if part.is_dir()}
    if any(found.values()):
        report.section("While it trained")
    for dataset, strips in found.items():
        for name, png in strips.items():
            caption = f"{dataset}, {name}, over time; the frame marks where the last one differs most from the first."
            report.add_strip(f"time_{dataset}_{name}", png, caption=caption)


def _add_images(report: Report, metrics: Metrics, num_strips: int) -> None:
    baseline = _baseline(metrics)
    for dataset, content in metrics.datasets.items():
        images = content.get("images", [])
        if not images:
            continue
        report.section(f"Images of {dataset}")
        metric, entry = next(iter(content.get("metrics", {}).items()), (None, {}))
        is_higher_better = entry.get("higher_is_better", True)
        chosen = choose_images(
            images, metric=metric, baseline=baseline, is_higher_better=is_higher_better, num=num_strips
        )
        names, ours = [str(image.get("name", "image")) for image in chosen], metrics.name.rsplit("/", 1)[-1]
        gains = [gain_of(image, metric, baseline) for image in chosen]
        strips = [strip_of(image, metrics.root, ours=ours, baseline=baseline) for image in chosen]
        num_shown = sum(png is not None for png in strips)
        if num_shown:
            order = f", from the best to the worst change of {metric} against {baseline}" if baseline else ""
            report.add_text(
                f"{num_shown} of {len(images)} images{order}. The frame marks the part where the restored image differs"
                " most from the baseline; it is enlarged below without interpolation."
            )
        for name, gain, png in zip(names, gains, strips, strict=True):
            change = f": {metric} {gain:+.2f} against {baseline}" if gain is not None and baseline else ""
            alt = f"{dataset}, {name}: low-quality input, baseline, restored image and ground truth side by side"
            report.add_strip(f"strip_{dataset}_{name}", png, caption=f"{dataset}, {name}{change}", alt=alt)
        pair = before_and_after(chosen[0], metrics.root, baseline=baseline) if chosen and baseline else None
        if pair is not None:
            sides = ((str(baseline), pair[0]), (ours, pair[1]))
            report.add_slider(f"slider_{dataset}", *sides, caption=f"{dataset}, {names[0]}: move the line.")
        table = image_table(content, baseline=baseline, caption=protocol_caption([metrics]))
        report.add_table(f"images_{dataset}", table, title=f"Every image of {dataset}", is_folded=True)


def _add_conditions(report: Report, experiment: Path, log: RunLog, metrics: Metrics | None) -> None:
    report.section("How it was made")
    facts: dict[str, Any] = {}
    if metrics is not None:
        for metric, protocol in metrics.protocols().items():
            facts[f"protocol of {metric}"] = protocol or "not stated"
        for key in ("weights", "iteration", "start", "options", "seed"):
            if metrics.stamp.get(key) is not None:
                facts["option hash" if key == "options" else key] = metrics.stamp[key]
    if log.train:
        facts["last logged iteration"] = log.train[-1]["iter"]
    facts.update(environment())
    rows = [Row(key, {"value": str(value)}) for key, value in facts.items()]
    caption = "Versions are those of the process that wrote this report."
    report.add_table("conditions", Table([Column("value", "Value")], rows, caption=caption, row_head="Condition"))
    option_files = sorted(experiment.glob("*.yml")) if experiment.is_dir() else []
    for path in option_files:
        report.add_code(f"Options as run: {path.name}", path.read_text(errors="replace"))


def environment() -> dict[str, str]:
    """Versions of tgsr, Python and the packages that numbers depend on, and the device."""
    import cv2
    import torch

    found = {"tgsr": __version__, "Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["OpenCV"] = cv2.__version__
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    return found


def write_comparison(
    runs: Mapping[str, Sequence[Path]],
    folder: Path,
    *,
    title: str,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    expectations: Sequence[Expectation] = (),
    ours: str | None = None,
) -> Path:
    """Several methods, each over several runs (seeds), in one table and one figure per metric.

    Args:
        runs: label -> results folders of its runs.
        folder: where the report goes.
        paper: label -> `<data set>/<metric>` -> the paper's value.
        expectations: claims about `ours`.
        ours: label the claims are about; the last one when None.

    Returns:
        The path of `index.html`.

    Raises:
        DataError: a metrics file is absent or damaged, or the runs were measured by different protocols.
    """
    if not runs:
        raise DataError("there are no runs to compare", place=str(folder))
    methods = {label: [Metrics.read(path) for path in paths] for label, paths in runs.items()}
    table = results_table(methods, paper=paper, gain_over=None)
    report = Report(
        title, subtitle=", ".join(f"{k}: {len(v)} run{'s' if len(v) != 1 else ''}" for k, v in methods.items())
    )
    report.section("Results").add_table("results", table)
    for metric in dict.fromkeys(c.label for c in table.columns):
        columns = [c for c in table.columns if c.label == metric]
        series = {r.label: [_number(r, c.name) for c in columns] for r in table.rows}
        groups = [c.group for c in columns]
        figure = plots.grouped_bars(groups, series, title=metric, y_label=metric, is_zero_based=False)
        report.add_plot(f"compare_{metric}", figure, caption=f"{metric} by data set; whiskers: one standard deviation.")
    if expectations:
        row = next(r for r in table.rows if r.label == (ours or list(methods)[-1]))
        measured = {n: c for n, c in row.cells.items() if isinstance(c, Number)}
        report.section("Against the paper").add_expectations("expectations", expectations, measured)
    return report.write(folder)


def _number(row: Row, column: str) -> Number | None:
    cell = row.cells.get(column)
    return cell if isinstance(cell, Number) else None
