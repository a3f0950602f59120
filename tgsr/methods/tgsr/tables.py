"""Tables of a TGSR experiment: indicators, estimators, groups, Table 6, gains per group and per task."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tgsr.methods.tgsr.artefacts import Groups, SweepResult
from tgsr.methods.tgsr.comparison import Comparison
from tgsr.methods.tgsr.figures import common_tasks, improvement
from tgsr.methods.tgsr.grouping import pis_table
from tgsr.methods.tgsr.indicator import spearman, spearman_interval
from tgsr.report.tables import Column, Number, Row, Table, aggregate


def _quantity_table(rows: Mapping[str, float | str], caption: str = "") -> Table:
    cells = {k: Number(float(v)) if isinstance(v, (int, float)) else v for k, v in rows.items()}
    body = [Row(k, {"value": v.text(_digits(v.value)) if isinstance(v, Number) else v}) for k, v in cells.items()]
    return Table([Column("value", "Value")], body, caption=caption, row_head="Quantity")


def _digits(value: float) -> int:
    return 0 if float(value).is_integer() else 4


def indicator_table(indicators: SweepResult) -> Table:
    """Number of tasks, quartiles of z, reliability, iterations, cost."""
    z, result = indicators.column("z"), indicators.header["result"]
    finite = z[np.isfinite(z)]
    quartiles = np.quantile(finite, [0.25, 0.5, 0.75]) if len(finite) else [np.nan] * 3
    seconds = float(np.nansum(indicators.column("seconds")))
    return _quantity_table(
        {
            "tasks": len(z),
            "diverged": len(result.get("diverged", [])),
            "iterations": result.get("iters", 0),
            "z, lowest": finite.min() if len(finite) else np.nan,
            "z, quartiles": ", ".join(f"{q:.4f}" for q in quartiles),
            "z, highest": finite.max() if len(finite) else np.nan,
            "standard error of z, median": float(np.nanmedian(indicators.column("se"))),
            "reliability": result.get("reliability") or float("nan"),
            "seconds per task and process": seconds / max(1, len(z)),
        },
        caption=f"Protocol: {indicators.header['protocol']['mode']}.",
    )


def correlation_table(indicators: SweepResult, gains: SweepResult, *, metric: str = "psnr") -> Table:
    """Spearman's correlation of 1 - z with the true gain, its interval, and the mean gain of both halves."""
    z = indicators.values("z")
    x, y = np.array([1 - z[n] for n in gains.names]), gains.column(f"gain_{metric}")
    low, high = spearman_interval(x, y, rng=np.random.default_rng(0))
    median = np.nanmedian(x)
    return _quantity_table(
        {
            "tasks": len(x),
            "Spearman of 1 - z and gain": spearman(x, y),
            "80 % interval over tasks": f"{low:.2f} to {high:.2f}",
            "mean gain, lower half of z": float(np.nanmean(y[x >= median])),
            "mean gain, upper half of z": float(np.nanmean(y[x < median])),
        }
    )


def estimator_table(sweeps: Mapping[str, SweepResult], gains: SweepResult | None, *, metric: str = "psnr") -> Table:
    """Each estimator of z: rank agreement between seeds, and correlation of 1 - z with the true gain.

    Args:
        sweeps: `NAME#SEED` -> sweep with `study: true`; sweeps of one NAME differ in the seed only.
        gains: true gains of some of the tasks.
    """
    families: dict[str, list[SweepResult]] = {}
    for label, sweep in sweeps.items():
        families.setdefault(label.split("#")[0], []).append(sweep)
    rows = []
    for family, members in families.items():
        for key in members[0].records[0]["estimates"]:
            values = [_estimates(m, key) for m in members]
            pairs = list(itertools.combinations(values, 2))
            cells: dict[str, Number | str] = {}
            if pairs:
                cells["agreement"] = aggregate([spearman(a, b) for a, b in pairs])
                low, high = spearman_interval(*pairs[0], rng=np.random.default_rng(0))
                cells["interval"] = f"{low:.2f} to {high:.2f}"
            if gains is not None:
                truth = gains.values(f"gain_{metric}")
                y = np.array([truth.get(n, np.nan) for n in members[0].names])
                cells["truth"] = aggregate([spearman(1 - v, y) for v in values])
            rows.append(Row(f"{family}, {key}", cells))
    columns = [Column("agreement", "agreement between seeds", digits=2), Column("interval", "80 % interval")]
    if gains is not None:
        columns.append(Column("truth", "correlation with the true gain", digits=2))
    caption = "Spearman's rank correlations. `kind@iterations`: probe = same patches before and after; first, fresh, "
    caption += "same = denominators of the text's ratio."
    return Table(columns, rows, caption=caption, row_head="Estimator")


def _estimates(sweep: SweepResult, key: str) -> np.ndarray:
    values = [r["estimates"].get(key, [None])[0] for r in sweep.records]
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def group_table(groups: Groups, *, sizes: Sequence[int] | None = None) -> Table:
    """Tasks in each group and the threshold that made it.

    Args:
        groups: of `groups.json`.
        sizes: the paper's, of groups 1, 2, ..., to stand beside.
    """
    rows = [Row("Group0", {"num": "the whole space", "threshold": None})]
    paper = dict(enumerate(sizes or (), 1))
    for number, members in enumerate(groups.groups[1:], 1):
        kept = groups.rounds[number - 1 : number]
        threshold = Number(kept[0].threshold) if kept else None
        num = Number(float(len(members)), paper=paper.get(number))
        rows.append(Row(f"Group{number}", {"num": num, "threshold": threshold}))
    rows.append(Row("in no group", {"num": str(len(groups.rest)), "threshold": None}))
    columns = [Column("num", "tasks", digits=0), Column("threshold", "PIS above, dB", digits=2)]
    return Table(columns, rows, caption=f"Kind: {groups.kind}.", row_head="Group")


def ends_table(ends: Mapping[str, SweepResult], stated: Mapping[str, Any], *, metric: str = "psnr") -> Table:
    """Fig. 6 in numbers: least, mean and largest gain of the tasks with the lowest and the highest z.

    Args:
        ends: label -> gains.
        stated: what the paper says of them; its "high indicator" means what has much to gain, here low z.
    """
    rows = []
    for label, sweep in ends.items():
        gain = sweep.column(f"gain_{metric}")
        numbers = {"least": np.nanmin(gain), "mean": np.nanmean(gain), "most": np.nanmax(gain)}
        rows.append(Row(label, {k: Number(float(v)) for k, v in numbers.items()}, is_signed=True))
    low, high = stated["gain_of_high_indicator_db"]
    caption = f"{metric} gain in dB. The paper: about {low} to {high} dB for unsatisfactory tasks, about "
    caption += f"{stated['gain_of_low_indicator_db']} dB for satisfactory ones."
    return Table([Column(k, k, digits=2) for k in ("least", "mean", "most")], rows, caption=caption, row_head="Tasks")


def single_table(
    gains: SweepResult, comparison: Comparison, method: str, stated: Mapping[str, Mapping[str, float]]
) -> Table:
    """Fig. 10 in numbers: mean improvement of single-task networks and of TGSR on the same tasks.

    Args:
        gains: of single-task networks.
        comparison: with the same tasks.
        method: of the comparison.
        stated: the paper's means.
    """
    rows: dict[str, dict[str, Number]] = {"single-task network": {}, method: {}}
    for metric in [m for m in gains.metrics() if m in comparison.metrics()]:
        names, sign = common_tasks(gains, comparison, metric), improvement(metric)
        if not names:
            continue
        single = gains.values(f"gain_{metric}")
        values = sign * float(np.mean([single[n] for n in names]))
        rows["single-task network"][metric] = Number(values, paper=stated["single-task"].get(metric))
        means = [sign * float(comparison.gains(r, names, metric).mean()) for r in comparison.runs()[method]]
        ours = aggregate(means)
        rows[method][metric] = Number(ours.value, ours.spread, ours.num_runs, stated["TGSR"].get(metric))
    measured = dict.fromkeys(metric for cells in rows.values() for metric in cells)
    columns = [Column(m, m, digits=4 if m == "lpips" else 3) for m in measured]
    body = [Row(label, dict(cells), is_signed=True) for label, cells in rows.items()]
    caption = "Mean improvement over the network that both start from; LPIPS: by how much it falls."
    return Table(columns, body, caption=caption, row_head="Network")


def round_table(groups: Groups, *, num: int = 40) -> Table:
    """Table 6: PIS of the best tasks in each round, empty once they are grouped."""
    names = sorted(groups.rounds[0].pis, key=lambda n: -groups.rounds[0].pis[n])[:num]
    body = []
    for name, column in zip(names, zip(*pis_table(groups.rounds, names), strict=True), strict=True):
        body.append(Row(name, {str(k): Number(v) for k, v in enumerate(column, 1) if v is not None}))
    columns = [Column(str(k), f"round {k}", digits=2) for k in range(1, len(groups.rounds) + 1)]
    return Table(columns, body, caption="PIS in dB.", row_head="Task")


def gain_table(comparison: Comparison, *, metric: str = "psnr", pis: Sequence[float] = (0.2, 0.15, 0.1)) -> Table:
    """Methods by groups: mean gain over a group's tasks (and the median), mean and spread over seeds."""
    sets = comparison.groups() | {f"PIS ≥ {p:g}": comparison.tasks_with_pis(p) for p in pis}
    for name in comparison.data["groups"]:
        if name != "groups":
            members = [t for g in comparison.groups(name).values() for t in g]
            sets[f"{name} groups"] = members
    measured = set(comparison.data["tasks_values"][metric][comparison.data["baseline"]])
    sets = {k: [t for t in v if t in measured] for k, v in sets.items()}
    sets = {k: v for k, v in sets.items() if v}
    rows = []
    for method, labels in comparison.runs().items():
        if method == comparison.data["baseline"]:
            continue
        cells = {"Group0": aggregate([comparison.group0_gain(label, metric) for label in labels])}
        for name, members in sets.items():
            per_run = [comparison.gains(label, members, metric) for label in labels]
            cells[f"{name} mean"] = aggregate([float(g.mean()) for g in per_run])
            cells[f"{name} median"] = aggregate([float(np.median(g)) for g in per_run])
        rows.append(Row(method, cells, is_signed=True))
    columns = [Column("Group0", "mean", "Group0", digits=3)]
    for name, members in sets.items():
        head = f"{name} (n = {len(members)})"
        columns += [Column(f"{name} {s}", s, head, digits=3) for s in ("mean", "median")]
    protocol = comparison.data["protocol"].get(metric, "")
    caption = f"{metric} gain in dB ({protocol}) over '{comparison.data['baseline']}'; mean ± sample standard "
    return Table(columns, rows, caption=caption + "deviation over seeds of the last step.")


def task_table(comparison: Comparison, *, metric: str = "psnr") -> Table:
    """Every grouped task: group, PIS of the first round, gain of each method (mean over seeds)."""
    baseline = comparison.data["baseline"]
    methods = [m for m in comparison.runs() if m != baseline]
    rows = []
    for group, members in comparison.groups().items():
        for name in members:
            cells: dict[str, Number | str] = {"group": group}
            if name in comparison.data["pis"]:
                cells["pis"] = Number(comparison.data["pis"][name])
            for method in methods:
                labels = comparison.runs()[method]
                cells[method] = aggregate([float(comparison.gains(r, [name], metric)[0]) for r in labels])
            rows.append(Row(name, cells, is_signed=True))
    columns = [Column("group", "Group"), Column("pis", "PIS", digits=2), *(Column(m, m, digits=2) for m in methods)]
    return Table(columns, rows, caption=f"{metric} gain in dB over '{baseline}'.", row_head="Task")
