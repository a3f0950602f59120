"""What a run leaves behind, read for a report: `log.jsonl` as curves, `metrics.json` as results."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tgsr.report.tables import Column, Number, Row, Table, aggregate, difference_row
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_json

START = "start"
"""The baseline that is the network a run started from."""
Curve = tuple[list[float], list[float]]
"""x and y, equally long."""


@dataclass(frozen=True)
class RunLog:
    """The events of one run, in order, each iteration once.

    Attributes:
        train, val: the events.
        num_damaged: lines that are no JSON (a killed writer leaves one).
    """

    train: Sequence[Mapping[str, Any]] = ()
    val: Sequence[Mapping[str, Any]] = ()
    num_damaged: int = 0

    @classmethod
    def read(cls, path: Path | str) -> RunLog:
        """An absent file is an empty log. What a resumed run logged again replaces what it had logged before."""
        train: list[Mapping[str, Any]] = []
        val: list[Mapping[str, Any]] = []
        num_damaged = 0
        path = Path(path)
        for event in _lines(path):
            try:
                kind, iteration = event["event"], event["iter"]
            except (KeyError, TypeError):
                num_damaged += 1
                continue
            if kind == "train":
                if train and train[-1]["iter"] >= iteration:  # resumed: its validations come again, too
                    train = [e for e in train if e["iter"] < iteration]
                    last = train[-1]["iter"] if train else -1
                    val = [v for v in val if v["iter"] <= last]
                train.append(event)
            elif kind == "val":
                val = [v for v in val if (v["iter"], v.get("dataset")) != (iteration, event.get("dataset"))]
                val.append(event)
        return cls(train, val, num_damaged)

    def __bool__(self) -> bool:
        return bool(self.train or self.val)

    def losses(self) -> dict[str, Curve]:
        """Loss name -> curve."""
        curves: dict[str, Curve] = {}
        for event in self.train:
            for name, value in event.get("losses", {}).items():
                _add(curves, name, event["iter"], value)
        return curves

    def scalar(self, name: str) -> Curve:
        """`lr`, `images_per_s`, `data_share`, `grad_norm`: the curve, empty where it was not logged."""
        points = [(e["iter"], e[name]) for e in self.train if isinstance(e.get(name), (int, float))]
        return [float(x) for x, _ in points], [float(y) for _, y in points]

    def task_losses(self) -> dict[str, Curve]:
        """Task -> curve of the mean loss of its samples."""
        curves: dict[str, Curve] = {}
        for event in self.train:
            for task, entry in event.get("tasks", {}).items():
                _add(curves, task, event["iter"], entry.get("loss"))
        return curves

    def task_counts(self) -> dict[str, int]:
        """Task -> number of samples it had in all."""
        counts: dict[str, int] = defaultdict(int)
        for event in self.train:
            for task, entry in event.get("tasks", {}).items():
                counts[task] += int(entry.get("count", 0))
        return dict(counts)

    def metrics(self) -> dict[str, dict[str, Curve]]:
        """Metric -> data set -> curve."""
        curves: dict[str, dict[str, Curve]] = defaultdict(dict)
        for event in self.val:
            for metric, value in event.get("metrics", {}).items():
                _add(curves[metric], str(event.get("dataset", "")), event["iter"], value)
        return dict(curves)


def _lines(path: Path) -> Iterator[Any]:
    """Of a JSON Lines file that may be absent; None for a line that is damaged."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError:
                yield None


def starts_of(experiment: Path, log: RunLog) -> tuple[list[Mapping[str, Any]], float]:
    """Every start of a training, and the seconds by the clock from each to its last line of `log.jsonl`, together.

    Args:
        experiment: `experiments/<name>`; runs of older versions have no `starts.jsonl`, and nothing is known of them.
        log: its log; what was trained again after a kill counts once, as the log has it.
    """
    found = [
        s
        for s in _lines(experiment / "starts.jsonl")
        if isinstance(s, dict) and isinstance(s.get("time"), (int, float))
    ]
    stamps = [float(e["time"]) for e in log.train if "time" in e]
    seconds = 0.0
    for begin, end in pairwise([*(float(s["time"]) for s in found), float("inf")]):
        seconds += max((t - begin for t in stamps if begin <= t < end), default=0.0)
    return found, seconds


def _add(curves: dict[str, Curve], name: str, iteration: int, value: Any) -> None:
    if isinstance(value, (int, float)):
        xs, ys = curves.setdefault(name, ([], []))
        xs.append(float(iteration))
        ys.append(float(value))


@dataclass(frozen=True)
class Metrics:
    """A `metrics.json` (schema `tgsr.metrics`, version 1).

    Attributes:
        root: the folder that file names in it are relative to.
        datasets: data set -> `{metrics, baselines, images}` as in the file.
    """

    root: Path
    name: str
    datasets: Mapping[str, Mapping[str, Any]]
    stamp: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str) -> Metrics:
        """Read `metrics.json`, or the one in a results folder.

        Raises:
            DataError: absent, damaged, of another schema or of a newer version.
        """
        path = Path(path)
        path = path / "metrics.json" if path.is_dir() or path.suffix != ".json" else path
        data = read_json(path)
        check_schema(data, "tgsr.metrics", path)
        stamp = {k: v for k, v in data.items() if k not in ("datasets", "schema")}
        return cls(path.parent, str(data.get("name", path.parent.name)), data.get("datasets", {}), stamp)

    def protocols(self) -> dict[str, str]:
        """Metric -> its protocol.

        Raises:
            DataError: two data sets of the file were measured by different protocols.
        """
        return merge_protocols([self])


def merge_protocols(runs: Sequence[Metrics]) -> dict[str, str]:
    """Metric -> protocol of all runs; DataError where they disagree, since such numbers do not compare."""
    found: dict[str, tuple[str, str]] = {}
    for run in runs:
        for dataset, content in run.datasets.items():
            for metric, entry in content.get("metrics", {}).items():
                protocol, where = str(entry.get("protocol", "")), f"{run.name}, {dataset}"
                first, first_where = found.setdefault(metric, (protocol, where))
                if first != protocol:
                    raise DataError(
                        f"{metric} was measured as '{first}' ({first_where}) and as '{protocol}' ({where})",
                        remedy="numbers of two protocols do not compare; test again with one",
                    )
    return {metric: protocol for metric, (protocol, _) in found.items()}


def protocol_caption(runs: Sequence[Metrics]) -> str:
    """`psnr_y: Y (BT.601), crop 4, 8-bit. Set5: 5 images. ...` for the caption of a table."""
    protocols = "; ".join(f"{m}: {p}" for m, p in merge_protocols(runs).items() if p)
    counts: dict[str, int] = {}
    for run in runs:
        for dataset, content in run.datasets.items():
            nums = [e.get("num_images") for e in content.get("metrics", {}).values() if e.get("num_images")]
            counts.setdefault(dataset, int(nums[0]) if nums else len(content.get("images", [])))
    images = ", ".join(f"{d}: {n} image{'s' if n != 1 else ''}" for d, n in counts.items() if n)
    return ". ".join(part for part in (protocols, images) if part) + ("." if protocols or images else "")


def metric_columns(runs: Sequence[Metrics]) -> list[Column]:
    """One column per data set and metric, named `<data set>/<metric>`, in the order of the files."""
    columns: dict[str, Column] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for dataset, content in run.datasets.items():
            for metric, entry in content.get("metrics", {}).items():
                name = f"{dataset}/{metric}"
                if name not in columns:
                    columns[name] = Column(name, metric, dataset, entry.get("higher_is_better"))
                    groups[dataset].append(name)
    return [columns[name] for names in groups.values() for name in names]


def measured(runs: Sequence[Metrics]) -> dict[str, Number]:
    """`<data set>/<metric>` -> mean and spread over runs (seeds) of one method."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for dataset, content in run.datasets.items():
            for metric, entry in content.get("metrics", {}).items():
                values[f"{dataset}/{metric}"].append(float(entry["mean"]))
    return {name: aggregate(v) for name, v in values.items()}


def baselines(run: Metrics) -> dict[str, dict[str, Number]]:
    """Baseline -> `<data set>/<metric>` -> value; only of metrics that the run itself has."""
    found: dict[str, dict[str, Number]] = defaultdict(dict)
    for dataset, content in run.datasets.items():
        for baseline, entries in content.get("baselines", {}).items():
            for metric, entry in entries.items():
                if metric in content.get("metrics", {}):
                    found[baseline][f"{dataset}/{metric}"] = Number(float(entry["mean"]))
    return dict(found)


def results_table(
    methods: Mapping[str, Sequence[Metrics]],
    *,
    paper: Mapping[str, Mapping[str, float]] | None = None,
    gain_over: str | None = "bicubic",
) -> Table:
    """Methods by data sets and metrics, baselines first, mean ± sample standard deviation over each method's runs.

    Args:
        methods: label -> its runs (seeds).
        paper: label -> `<data set>/<metric>` -> the paper's value, printed beside the measured one.
        gain_over: baseline or method whose difference to a single method is added as a last row; None: no such row.

    Raises:
        DataError: the runs were measured by different protocols.
    """
    runs = [run for group in methods.values() for run in group]
    columns = metric_columns(runs)
    found: dict[str, dict[str, Number]] = {}
    for run in runs:
        for baseline, values in baselines(run).items():
            if baseline == START and len(runs) > 1:
                continue  # each of them may have another
            found[baseline] = {**values, **found.get(baseline, {})}
    found.update({label: measured(group) for label, group in methods.items()})
    rows = {}
    for label, values in found.items():
        stated = (paper or {}).get(label, {})
        rows[label] = Row(label, {n: replace(v, paper=stated.get(n)) for n, v in values.items()})
    body = list(rows.values())
    if gain_over in rows and len(methods) == 1:
        label = next(iter(methods))
        if label != gain_over:
            body.append(difference_row(f"difference to {gain_over}", rows[label], rows[gain_over]))
    caption = protocol_caption(runs)
    sizes = sorted({len(group) for group in methods.values()})
    if sizes and sizes[-1] > 1:
        how_many = str(sizes[-1]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        caption += f" Mean ± sample standard deviation over {how_many} runs."
    return Table(columns, body, caption=caption.strip())


def image_table(content: Mapping[str, Any], *, baseline: str | None = None, caption: str = "") -> Table:
    """Every image of a data set: its metrics, and the difference to a baseline where the file has it."""
    columns: list[Column] = []
    for metric in content.get("metrics", {}):
        columns.append(Column(metric, metric))
        if baseline and any(metric in i.get("baselines", {}).get(baseline, {}) for i in content.get("images", [])):
            columns.append(Column(f"{metric} {baseline}", f"{metric}, {baseline}"))
    names = {c.name for c in columns}
    rows = []
    for image in content.get("images", []):
        cells: dict[str, Number] = {m: Number(float(v)) for m, v in image.get("metrics", {}).items() if m in names}
        for metric, value in image.get("baselines", {}).get(baseline, {}).items() if baseline else ():
            if f"{metric} {baseline}" in names:
                cells[f"{metric} {baseline}"] = Number(float(value))
        rows.append(Row(str(image.get("name", "?")), cells))
    return Table(columns, rows, caption=caption, row_head="Image")
