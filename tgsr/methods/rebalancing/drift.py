"""How TGSR's grouping of tasks changes between two checkpoints of one training (Fig. 5 a)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from tgsr.config.schema import Options
from tgsr.config.spec import Range
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.report.builder import Report
from tgsr.report.plots import heat_map, scatter, spearman
from tgsr.report.tables import Column, Number, Row, Table
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.stage import Stage
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_jsonl

INDICATORS, INDICATORS_VERSION = "tgsr.indicators", 1


def read_indicators(path: Path | str) -> tuple[str, dict[str, float]]:
    """Digest of the task set, and task -> z (NaN where the network diverged), of an `indicators.jsonl`."""
    records = list(read_jsonl(path))
    header = records[0] if records else {}
    check_schema(header, INDICATORS, path, version=INDICATORS_VERSION, made_by="IndicatorSweep")
    values = {r["task"]: r.get("z") for r in records[1:]}
    return header["tasks"], {task: math.nan if z is None else float(z) for task, z in values.items()}


def even_groups(values: np.ndarray, num: int) -> np.ndarray:
    """`(n,)` group 0, 1, ... of each value: ranked, then cut into `num` groups whose sizes differ by at most one."""
    groups = np.empty(len(values), dtype=np.int64)
    groups[np.argsort(values, kind="stable")] = np.arange(len(values)) * num // len(values)
    return groups


def drift(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    num_groups: int = 4,
    share: float = 0.4,
    direction: Literal["low", "high"] = "low",
) -> dict[str, Any]:
    """What two measurements of the same tasks decide differently.

    Args:
        before, after: task -> indicator; tasks without a finite one in either are left out.
        num_groups: even groups by rank.
        share: part of the tasks that count as unsatisfactory.
        direction: of an unsatisfactory task's indicator.

    Returns:
        `tasks` (lowest first value first), `before`, `after`, `groups` (two lists), `moves` (groups before by groups
        after, counts), `stay` (share of the tasks in the group they were in), `kept`, `new`, `gone` (names of the
        selected sets' tasks) and `correlation` of the ranks.

    Raises:
        DataError: less tasks in common than groups.
    """
    names = [t for t in before if math.isfinite(before[t]) and math.isfinite(after.get(t, math.nan))]
    if len(names) < max(3, num_groups):
        raise DataError(
            f"{len(names)} tasks have an indicator in both files, too few for {num_groups} groups",
            remedy="use files of one task set, or less groups",
        )
    names.sort(key=lambda t: before[t])
    values = [np.array([v[t] for t in names]) for v in (before, after)]
    groups = [even_groups(v, num_groups) for v in values]
    moves = np.zeros((num_groups, num_groups), dtype=np.int64)
    np.add.at(moves, tuple(groups), 1)
    sign, num = 1 if direction == "low" else -1, max(1, round(share * len(names)))
    first, second = ([names[i] for i in np.argsort(sign * v, kind="stable")[:num]] for v in values)
    return {
        "tasks": names,
        "before": values[0].tolist(),
        "after": values[1].tolist(),
        "groups": [g.tolist() for g in groups],
        "moves": moves.tolist(),
        "stay": float(np.trace(moves) / len(names)),
        "kept": [t for t in first if t in set(second)],
        "new": [t for t in second if t not in set(first)],
        "gone": [t for t in first if t not in set(second)],
        "correlation": spearman(*values),
    }


@dataclass(frozen=True, kw_only=True)
class DriftFile(Artefact):
    """A `drift.json`: what was compared, the settings, and the result of `drift`."""

    schema: ClassVar[str] = "tgsr.indicator_drift"
    made_by: ClassVar[str] = "IndicatorDrift"

    files: Mapping[str, str]
    left_out: int
    num_groups: int
    share: float
    direction: str
    tasks: Sequence[str]
    before: Sequence[float]
    after: Sequence[float]
    groups: Sequence[Sequence[int]]
    moves: Sequence[Sequence[int]]
    stay: float
    kept: Sequence[str]
    new: Sequence[str]
    gone: Sequence[str]
    correlation: float


@RUNNERS.register()
class IndicatorDrift(Stage):
    """Compares the indicators of the same tasks at two checkpoints -> `drift.json` and a report (Fig. 5 a).

    TGSR groups once, before training. Here its indicator, measured at two checkpoints, ranks the tasks, and the ranks
    are cut into even groups as in the figure. What moves has drifted or was never certain: the indicator's own spread
    is what a second sweep at the same checkpoint with another seed shows.

    Args:
        before: `indicators.jsonl` of the earlier checkpoint.
        after: of the later one, with the same `tasks.json`.
        num_groups: even groups; the paper makes 4.
        share: part of the tasks that TGSR selects as unsatisfactory.
        direction: `low`: a low indicator is unsatisfactory; `high`: TGSR's Algorithm 1 to the letter.
    """

    product = "drift.json"

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        before: Path,
        after: Path,
        num_groups: Annotated[int, Range(2)] = 4,
        share: Annotated[float, Range(0, 1)] = 0.4,
        direction: Literal["low", "high"] = "low",
    ) -> None:
        super().__init__(options=options, context=context)
        self.before, self.after = before, after
        self.settings: dict[str, Any] = {"num_groups": num_groups, "share": share, "direction": direction}

    def work(self) -> None:
        (tasks, first), (others, second) = read_indicators(self.before), read_indicators(self.after)
        if tasks != others:
            raise DataError(
                "the two files are of different task sets",
                place=f"{self.before}, {self.after}",
                remedy="measure the same tasks.json at both checkpoints",
            )
        found = drift(first, second, **self.settings)
        if self.context.is_main:
            DriftFile(
                files={"before": str(self.before), "after": str(self.after)},
                left_out=len({*first, *second}) - len(found["tasks"]),
                **self.settings,
                **found,
                **stamp(self.options),
            ).save(self.folder / self.product)

    def page(self) -> Report:
        return drift_report(vars(DriftFile.load(self.folder / self.product)), title=self.options.name)


def drift_report(content: Mapping[str, Any], *, title: str) -> Report:
    """The page of a `drift.json`."""
    num, tasks = content["num_groups"], content["tasks"]
    names: Sequence[str] = [f"group {g + 1}" for g in range(num)]
    report = Report(title, subtitle=f"{len(tasks)} tasks at two checkpoints, {num} even groups by the indicator")
    report.add_numbers(
        {
            "tasks that stay in their group": f"{100 * content['stay']:.0f} % (by chance {100 / num:.0f} %)",
            "rank correlation": f"{content['correlation']:.3f}",
            "selected": f"{len(content['kept'])} kept, {len(content['new'])} new, {len(content['gone'])} gone",
            "left out (no finite indicator in both)": str(content["left_out"]),
        }
    )
    report.section("Groups")
    ranks = [str(i) if i % 10 == 0 else "" for i in range(len(tasks))]
    colours = heat_map(
        1 + np.array(content["groups"], dtype=float), row_labels=["before", "after"], column_labels=ranks,
        value_label="group", column_axis="tasks, ranked by the indicator before",
    )  # fmt: skip
    report.add_plot("groups", colours, caption="Group of each task: tasks of one colour are one group (Fig. 5 a).")
    columns = [Column(n, n, "after", digits=0) for n in names]
    rows = [
        Row(before, {n: Number(c) for n, c in zip(names, counts, strict=True)}, is_ranked=False)
        for before, counts in zip(names, content["moves"], strict=True)
    ]
    caption = "Number of tasks by their groups before and after."
    report.add_table("moves", Table(columns, rows, caption=caption, row_head="before"))
    plot = scatter(content["before"], content["after"], x_label="before", y_label="after", has_diagonal=True)
    report.add_plot("indicators", plot, caption="Indicator z of each task at the two checkpoints.")
    return report
