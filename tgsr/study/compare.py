"""Tables over many tasks: each of them, their mean, the worst, and the largest distance to the tasks' own networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tgsr.report.tables import Column, Row, Table, aggregate
from tgsr.study.measurements import Measurements

Values = Mapping[str, float]
"""Task (or set, where no task degrades it) -> metric."""


def with_summary(tasks: Values, own: Values | None = None, *, higher_is_better: bool = True) -> dict[str, float]:
    """Tasks, their `mean`, the `worst` of them, and `lag`: how far at most one is worse than the task's own network.

    Args:
        tasks: of one run.
        own: of networks that know one task each, for the lag; None: no lag.
        higher_is_better: of the metric.
    """
    worst, sign = (min, 1) if higher_is_better else (max, -1)
    found = {**tasks, "mean": float(np.mean(list(tasks.values()))), "worst": worst(tasks.values())}
    return {**found, "lag": max(sign * (own[t] - tasks[t]) for t in tasks)} if own else found


def summary_table(
    found: Measurements,
    metric: str,
    *,
    own: str | None = None,
    baseline: str | None = None,
    caption: str = "",
    digits: int | None = 3,
) -> Table:
    """Rows by tasks, mean, worst and lag: mean ± sample standard deviation over the runs of each row.

    Args:
        found: of rows that were all measured on the same tasks; others are left out.
        metric: which.
        own: row of the networks that know one task each, for the lag. None, or not measured: no lag.
        baseline: row that is subtracted, run by run of equal seed. None: the values themselves.
        caption: of the table.
        digits: of the numbers.
    """
    higher = bool(found.metrics.get(metric, {}).get("higher_is_better", True))
    single = next(iter(found.values(own, metric).values()), None) if own in found.names and own is not None else None
    runs = _summaries(found, metric, single, higher)
    if baseline is not None:
        base = runs.pop(baseline)
        pairs = {n: [(r, base.get(seed, base.get(""))) for seed, r in by_seed.items()] for n, by_seed in runs.items()}
        rows = {n: [{k: r[k] - b[k] for k in r} for r, b in both if b is not None] for n, both in pairs.items()}
        rows.pop(own or "", None)
    else:
        rows = {name: list(by_seed.values()) for name, by_seed in runs.items()}
    group = "" if baseline is not None else metric
    columns = _columns(runs, group, higher, digits)
    is_signed = baseline is not None
    made = [
        Row(name, {c.name: aggregate([r[c.name] for r in each]) for c in columns},
            is_signed=is_signed, is_ranked=name != own)
        for name, each in rows.items() if each
    ]  # fmt: skip
    return Table(columns, made, caption=caption)


def _summaries(
    found: Measurements, metric: str, single: Values | None, higher: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Row -> seed -> values and summary; rows that lack a task that another has are left out."""
    values = {name: found.values(name, metric) for name in found.names}
    tasks = list(dict.fromkeys(t for by_seed in values.values() for run in by_seed.values() for t in run))
    return {
        name: {
            seed: with_summary({t: run[t] for t in tasks}, single, higher_is_better=higher)
            for seed, run in by_seed.items() if len(run) == len(tasks)
        }
        for name, by_seed in values.items()
    }  # fmt: skip


def _columns(
    runs: Mapping[str, Mapping[str, Values]], group: str, higher: bool, digits: int | None
) -> Sequence[Column]:
    names = next((list(run) for by_seed in runs.values() for run in by_seed.values()), [])
    return [
        Column(n, n, group if n not in ("mean", "worst", "lag") else "", digits=digits,
               higher_is_better=higher if n != "lag" else False)
        for n in names
    ]  # fmt: skip
