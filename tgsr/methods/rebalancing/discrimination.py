"""Which operators make tasks: one network for each severity of one operator (section 3.1, Figs. 1 b-e, 8, 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import PositiveInt, Range
from tgsr.degradations.base import PointSpace, Space
from tgsr.degradations.second_order import (
    DRAWN_COLUMNS,
    NOISE_GAUSSIAN,
    RESIZE_DOWN,
    RESIZE_KEEP,
    SecondOrderSpace,
)
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.methods.rebalancing.references import References
from tgsr.report.builder import Report
from tgsr.report.plots import curves, grouped_bars
from tgsr.report.tables import Column, Number, Row, Table
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.measure import Condition, Subject, measure
from tgsr.study.stage import Stage
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import did_you_mean

Fraction = Annotated[float, Range(0, 1)]

SWEPT_COLUMNS: dict[str, tuple[str, ...]] = {
    "blur": ("kernel{}_sigma_x", "kernel{}_sigma_y"),
    "noise": ("noise{}_sigma_255", "noise{}_poisson_scale"),
    "resize": ("resize{}_scale",),
    "jpeg": ("jpeg{}_quality",),
}
"""Operator -> the parameters that move; stage 2 follows stage 1 in proportion."""

SEVERITY: dict[str, tuple[str, bool]] = {
    "blur": ("blur_sigma", False),
    "noise": ("noise_range", False),
    "resize": ("resize_range", True),
    "jpeg": ("jpeg_range", True),
}
"""Operator -> the range its axis is labelled with, and whether small values are the severe ones."""

_FIXED_KINDS = {
    "blur1": 1, "kernel1_is_sinc": 0, "kernel1_type": 0, "kernel1_size": 21,
    "blur2": 1, "kernel2_is_sinc": 0, "kernel2_type": 0, "kernel2_size": 21,
    "resize1_kind": RESIZE_DOWN, "resize1_mode": 2, "resize2_kind": RESIZE_KEEP, "resize2_mode": 2,
    "noise1_kind": NOISE_GAUSSIAN, "noise1_is_gray": 0, "noise2_kind": NOISE_GAUSSIAN, "noise2_is_gray": 0,
    "jpeg1": 1, "jpeg2": 1, "final_sinc": 0, "final_order": 0, "final_mode": 2,
}  # fmt: skip
"""Every choice of the pipeline, fixed: isotropic Gaussian blur, colour Gaussian noise, one reduction, bicubic."""


def sweep_point(space: SecondOrderSpace, operator: str, severity: float, *, others: float) -> PointSpace:
    """One degradation: an operator at a severity, all others fixed.

    Args:
        space: whose ranges `severity` and `others` are parts of.
        operator: key of `SWEPT_COLUMNS`.
        severity: 0 (mildest) to 1.
        others: severity of the other operators.
    """
    uniforms = dict.fromkeys(DRAWN_COLUMNS, 0.5)
    for name, columns in SWEPT_COLUMNS.items():
        part = severity if name == operator else others
        part = 1 - part if SEVERITY[name][1] else part
        for stage in (1, 2):
            uniforms.update(dict.fromkeys((c.format(stage) for c in columns), part))
    low, high = space.settings["resize_range"]
    row = space.draw(np.array([[uniforms[c] for c in DRAWN_COLUMNS]])).row(0)
    row.update(_FIXED_KINDS)
    position = uniforms["resize1_scale"]
    row["resize1_scale"], row["resize2_scale"] = low + position * (min(1.0, high) - low), 1.0
    return PointSpace(pipeline=space.pipeline.to_json(), params=row)


@TASK_SETS.register("OperatorSweep")
def operator_sweep(
    *,
    space: Space | None,
    operator: str,
    num_settings: PositiveInt = 50,
    low: Fraction = 0.0,
    high: Fraction = 1.0,
    others: Fraction = 0.5,
) -> TaskSet:
    """Degradations that differ in the severity of one operator only (Fig. 1 b-e; Fig. 8 with 30 inside the boxes).

    Tasks are named `<operator>_00`, ... from the mildest to the most severe.

    Args:
        space: the run's second-order space, which gives the ranges.
        operator: `blur`, `noise`, `resize` or `jpeg`.
        num_settings: how many, at equal distances.
        low: the mildest, as a part of the operator's ranges.
        high: the most severe.
        others: severity of the other operators.
    """
    if not isinstance(space, SecondOrderSpace):
        raise ConfigError("a sweep needs a second-order space", remedy="set degradation.space: {type: SecondOrder}")
    if operator not in SWEPT_COLUMNS:
        raise ConfigError(f"there is no operator '{operator}'", remedy=did_you_mean(operator, SWEPT_COLUMNS))
    if low >= high and num_settings > 1:
        raise ConfigError(f"the sweep from {low} to {high} is empty", remedy="let low be less than high")
    severities = np.linspace(low, high, num_settings).tolist()
    tasks = [
        Task(f"{operator}_{i:02d}", sweep_point(space, operator, s, others=others)) for i, s in enumerate(severities)
    ]
    name, is_falling = SEVERITY[operator]
    start, end = space.settings[name] if operator != "resize" else (space.settings[name][0], 1.0)
    values = [start + ((1 - s) if is_falling else s) * (end - start) for s in severities]
    source = {"kind": "operator sweep", "operator": operator, "values": values, "space": space.to_json()}
    return TaskSet(tasks, source=source)


def linear_range(x: np.ndarray, y: np.ndarray, *, tolerance: float = 0.1, least: int = 4) -> tuple[int, int]:
    """The longest stretch in which `y` is a straight line of `x` (Fig. 9).

    Args:
        x, y: `(n,)`, x ascending.
        tolerance: largest distance of a point from the least-squares line, as a part of the whole range of `y`.
        least: points a stretch must have.

    Returns:
        First and last index; `(0, -1)` where no stretch of `least` points is straight.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    slack = tolerance * float(np.ptp(y)) + 1e-12
    for length in range(len(x), least - 1, -1):
        for first in range(len(x) - length + 1):
            part = slice(first, first + length)
            line = np.polyval(np.polyfit(x[part], y[part], 1), x[part])
            if np.abs(y[part] - line).max() <= slack:
                return first, first + length - 1
    return 0, -1


def operator_statistics(values: list[float], distances: list[float], *, tolerance: float) -> dict[str, Any]:
    """What Figs. 1 and 9 show of one operator."""
    order = np.argsort(values)
    x, y = np.array(values)[order], np.array(distances)[order]
    first, last = linear_range(x, y, tolerance=tolerance)
    found = {
        "values": x.tolist(),
        "distances": y.tolist(),
        "variance": float(y.var(ddof=1)) if len(y) > 1 else 0.0,
        "range_db": float(np.ptp(y)),
        "linear": [float(x[first]), float(x[last])] if last >= first else None,
    }
    found["r_squared"] = float(np.corrcoef(x, y)[0, 1] ** 2) if len(y) > 2 and y.std() > 0 and x.std() > 0 else None
    return found


@dataclass(frozen=True, kw_only=True)
class Discrimination(Artefact):
    """A `discrimination.json`.

    Attributes:
        metric: whose distances these are.
        operators: operator -> label of the shared network -> see `operator_statistics`.
    """

    schema: ClassVar[str] = "tgsr.operator_discrimination"
    made_by: ClassVar[str] = "OperatorDiscrimination"

    metric: str
    operators: Mapping[str, Mapping[str, Mapping[str, Any]]]


def kept_checkpoints(models: Path, num: int) -> dict[str, Path]:
    """Iteration -> weights of at most `num` checkpoints of a training, evenly spread, the last one among them.

    Args:
        models: folder with `net_g_<iteration>.pth`.
        num: how many.

    Raises:
        DataError: there are none.
    """
    named = {p.stem.removeprefix("net_g_"): p for p in models.glob("net_g_*.pth")}
    found = sorted((int(label), path) for label, path in named.items() if label.isdigit())
    if not found:
        remedy = "train with logger: {keep_last: null}"
        raise DataError("it holds no checkpoints by iteration", place=str(models), remedy=remedy)
    places = sorted({round((k + 1) * len(found) / num) - 1 for k in range(num)} - {-1})
    return {str(found[k][0]): found[k][1] for k in places}


@RUNNERS.register()
class OperatorDiscrimination(Stage):
    """PSNR distances of networks fine-tuned on single severities -> `discrimination.json` and a report.

    Args:
        references: operator -> `references.json` of a `SingleTaskReferences` stage over its `OperatorSweep`.
        checkpoints: shared networks to compare with, label -> weights (Fig. 8: six of one training). None: the common
            start of the references (Fig. 1).
        training: instead of them, the `models` folder of a training whose checkpoints were kept.
        num_checkpoints: how many of those, evenly over the training, the last one among them.
        metric: name of the metric.
        tolerance: of the linearity range (Fig. 9), see `linear_range`.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    product = "discrimination.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        references: dict[str, Path],
        checkpoints: dict[str, Path] | None = None,
        training: Path | None = None,
        num_checkpoints: PositiveInt = 6,
        metric: str = "psnr",
        tolerance: float = 0.1,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.references, self.checkpoints = references, dict(checkpoints or {})
        self.metric, self.tolerance, self.processes = metric, tolerance, processes
        self.training, self.num_checkpoints = training, num_checkpoints
        if checkpoints is not None and training is not None:
            raise ConfigError("there are checkpoints and a training", place=f"{options.name}: run", remedy="give one")
        if (self.checkpoints or training) and options.val.val_tasks not in options.datasets.val:
            raise ConfigError("the shared networks are measured on it", place=f"{options.name}: val.val_tasks")

    def work(self) -> None:
        if self.training is not None:
            kept = kept_checkpoints(self.training, self.num_checkpoints) if self.context.is_main else None
            self.checkpoints = self.context.from_main(kept)
        found = {operator: self._distances(operator, path) for operator, path in self.references.items()}
        if self.context.is_main:
            Discrimination(metric=self.metric, operators=found, **stamp(self.options)).save(self.folder / self.product)

    def page(self) -> Report:
        found = Discrimination.load(self.folder / self.product)
        return discrimination_report(found.operators, title=self.options.name)

    def _distances(self, operator: str, path: Path) -> dict[str, Any]:
        """Shared network -> statistics of one operator's sweep."""
        references = References.load(path)
        tasks = TaskSet.load(Path(path).parent / "tasks.json")
        references.check_tasks(tasks)
        values, last = self._values(tasks, operator, path), max(next(iter(references.curves.values())))
        single = {n: references.at(n, last, self.metric) for n in tasks.names}
        if self.checkpoints:
            shared = self._measure(operator, tasks)
        else:
            shared = {"start": {n: references.at(n, 0, self.metric) for n in tasks.names}}
        return {
            label: operator_statistics(values, [single[n] - multi[n] for n in tasks.names], tolerance=self.tolerance)
            for label, multi in shared.items()
        }

    def _values(self, tasks: TaskSet, operator: str, path: Path) -> list[float]:
        source = tasks.source.get("parent", tasks.source)
        if source.get("operator") != operator or len(source.get("values", [])) != len(tasks):
            raise DataError(
                f"these are not references over a whole sweep of '{operator}'",
                place=str(path),
                remedy="train them with tasks.set: {type: OperatorSweep} and no run.tasks",
            )
        return source["values"]

    def _measure(self, operator: str, tasks: TaskSet) -> dict[str, Mapping[str, float]]:
        """Checkpoint -> task -> metric."""
        subjects = [Subject(label, weights) for label, weights in self.checkpoints.items()]
        conditions = [Condition(str(self.options.val.val_tasks), task) for task in tasks]
        journal = self.results / f"measured_{operator}.jsonl"
        found = measure(
            subjects, conditions, [self.metric], journal, self.options, self.context, processes=self.processes
        )
        return {label: next(iter(found.values(label, self.metric).values())) for label in found.names}


def discrimination_report(results: Mapping[str, Any], *, title: str) -> Report:
    """A curve for each operator, and the variances as bars and a table."""
    report = Report(title, subtitle="PSNR distance of networks fine-tuned on one severity to the shared network")
    report.section("Distances")
    for operator, labels in results.items():
        series = {label: (r["values"], r["distances"]) for label, r in labels.items()}
        plot = curves(series, title=operator, x_label=SEVERITY[operator][0], y_label="PSNR distance, dB")
        report.add_plot(f"distance_{operator}", plot, caption=f"{operator}: every point is a network of its own.")
    report.section("How much an operator tells tasks apart")
    labels = list(next(iter(results.values())))
    report.add_plot(
        "variance",
        grouped_bars(
            list(results),
            {label: [results[o][label]["variance"] for o in results] for label in labels},
            y_label="variance of the PSNR distance, dB²",
        ),
        caption="Variance over severities; the paper finds noise and blur large, resize and JPEG small.",
    )
    columns = [
        Column("variance", "Variance, dB²", digits=5), Column("range", "Range, dB", digits=3),
        Column("r2", "R² of a line", digits=3), Column("linear", "Linear range"),
    ]  # fmt: skip
    rows = []
    for operator, found in results.items():
        for label, r in found.items():
            linear = "none" if r["linear"] is None else f"{r['linear'][0]:.3g} to {r['linear'][1]:.3g}"
            cells: dict[str, Any] = {
                "variance": Number(r["variance"]), "range": Number(r["range_db"]),
                "r2": None if r["r_squared"] is None else Number(r["r_squared"]), "linear": linear,
            }  # fmt: skip
            rows.append(Row(f"{operator} ({label})", cells))
    return report.add_table("operators", Table(columns, rows, row_head="Operator (shared network)"))
