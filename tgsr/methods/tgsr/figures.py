"""The paper's figures from artefacts: Figs. 1, 6, 7, 8, 9 and 10. Gains are improvements, of LPIPS too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tgsr.methods.tgsr.artefacts import SweepResult
from tgsr.methods.tgsr.comparison import Comparison
from tgsr.methods.tgsr.selection import select_unsatisfactory
from tgsr.report import plots
from tgsr.report.tables import Number, aggregate
from tgsr.study.measurements import Measurements
from tgsr.study.printed import HIGHER_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def improvement(metric: str) -> float:
    """What a difference of a metric is multiplied by, so that more is better."""
    return 1.0 if HIGHER_IS_BETTER.get(metric, True) else -1.0


def gain_label(metric: str) -> str:
    """Of an axis."""
    return "psnr gain, dB" if metric == "psnr" else f"{metric} improvement"


def indicator_histogram(indicators: SweepResult, *, share: float = 0.4) -> Figure:
    """Fig. 9: histogram of z, with the border of the selected share."""
    z = indicators.values("z")
    selected = select_unsatisfactory(z, share=share)
    border = {f"lowest {share:.0%} below": max(z[name] for name in selected)}
    return plots.histogram(
        indicators.column("z"), title="Performance indicator", x_label="z (loss after / before)", thresholds=border
    )


def gain_bars(gains: SweepResult, *, metric: str = "psnr", unsatisfactory: float = 0.4) -> Figure:
    """Fig. 1: gain of each single-task network over the shared one, sorted."""
    values = np.sort(gains.column(f"gain_{metric}"))
    share = float(np.mean(values[np.isfinite(values)] > unsatisfactory))
    names = [str(i + 1) for i in range(len(values))]
    title = f"Gain of single-task networks ({share:.0%} above {unsatisfactory:g} dB)"
    return plots.grouped_bars(names, {"single-task network": list(values)}, title=title, y_label=gain_label(metric))


def indicator_against_gain(indicators: SweepResult, gains: SweepResult, *, metric: str = "psnr") -> Figure:
    """Fig. 6 as a scatter: 1 - z against the true gain."""
    z = indicators.values("z")
    x = np.array([1 - z[name] for name in gains.names])
    y = gains.column(f"gain_{metric}")
    return plots.scatter(x, y, x_label="1 - z", y_label=gain_label(metric), title="Indicator and true gain")


def low_and_high_indicator(
    indicators: SweepResult, gains: SweepResult, *, metric: str = "psnr", num: int = 10
) -> Figure:
    """Fig. 6 as bars: gains of the tasks with the lowest and with the highest z."""
    z, gain = indicators.values("z"), gains.values(f"gain_{metric}")
    ordered = sorted((n for n in gains.names if np.isfinite(z[n])), key=lambda n: z[n])
    num = min(num, len(ordered) // 2)
    low, high = ordered[:num], ordered[-num:]
    series = {"lowest z": [gain[n] for n in low], "highest z": [gain[n] for n in high]}
    names = [str(i + 1) for i in range(num)]
    return plots.grouped_bars(names, series, title="Gain by indicator", y_label=gain_label(metric))


def two_ends(ends: Mapping[str, SweepResult], *, metric: str = "psnr") -> Figure:
    """Fig. 6 as bars: gains of networks of the tasks with the lowest and with the highest z, each in its own order."""
    num = max(len(sweep.names) for sweep in ends.values())
    series = {k: [*s.column(f"gain_{metric}"), *[None] * (num - len(s.names))] for k, s in ends.items()}
    names = [str(i + 1) for i in range(num)]
    return plots.grouped_bars(names, series, title="Gain by indicator", y_label=gain_label(metric))


def gain_per_set(found: Measurements, baseline: str, metric: str) -> Figure:
    """Fig. 7: gain of each row over the baseline on each set."""
    sets = list(dict.fromkeys(r.set for r in found.records))
    sign, series = improvement(metric), dict[str, list[Number | None]]()
    for name, values in found.differences(baseline).items():
        gains = [values.get(f"{s}/{metric}") for s in sets]
        series[name] = [None if g is None else aggregate([sign * v for v in g]) for g in gains]
    return plots.grouped_bars(sets, series, title="Gain per group", y_label=gain_label(metric))


def gain_per_group(comparison: Comparison, methods: Sequence[str], *, metric: str = "psnr") -> Figure:
    """Fig. 7: gain over the pre-trained network on each group, mean and spread over seeds."""
    runs, groups = comparison.runs(), comparison.groups()
    series = {}
    for method in methods:
        numbers = [aggregate([comparison.group0_gain(label, metric) for label in runs[method]])]
        for members in groups.values():
            numbers.append(aggregate([float(comparison.gains(r, members, metric).mean()) for r in runs[method]]))
        series[method] = numbers
    return plots.grouped_bars(["Group0", *groups], series, title="Gain per group", y_label=gain_label(metric))


def point_against_range(points: SweepResult, ranges: SweepResult, *, metric: str = "psnr") -> Figure:
    """Fig. 8: single-task networks trained on the task alone, and on a small range around it."""
    names = [n for n in points.names if n in set(ranges.names)]
    first, second = points.values(f"gain_{metric}"), ranges.values(f"gain_{metric}")
    names.sort(key=lambda n: first[n])
    series = {"single task": [first[n] for n in names], "range of tasks": [second[n] for n in names]}
    better = float(np.mean([second[n] > first[n] for n in names]))
    title = f"Range of tasks better on {better:.0%}"
    short = [n.removeprefix("task_") for n in names]
    return plots.grouped_bars(short, series, title=title, y_label=gain_label(metric))


def single_against_grouped(
    gains: SweepResult, comparison: Comparison, method: str, *, metric: str = "psnr", num: int = 12
) -> Figure | None:
    """Fig. 10: single-task networks and TGSR on the same tasks."""
    names = common_tasks(gains, comparison, metric)[:num]
    if not names:
        return None
    runs, sign = comparison.runs()[method], improvement(metric)
    single = gains.values(f"gain_{metric}")
    series = {
        "single-task network": [sign * single[n] for n in names],
        method: [aggregate([sign * float(comparison.gains(r, [n], metric)[0]) for r in runs]) for n in names],
    }
    title, short = "Single task and TGSR", [n.removeprefix("task_") for n in names]
    return plots.grouped_bars(short, series, title=title, y_label=gain_label(metric))


def common_tasks(gains: SweepResult, comparison: Comparison, metric: str) -> list[str]:
    """Tasks that both have measured by a metric."""
    measured = comparison.data["tasks_values"][metric][comparison.data["baseline"]]
    return [n for n in gains.names if n in measured]
