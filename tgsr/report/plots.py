"""Figures of runs and methods: every function returns a matplotlib Figure and touches no global state (no pyplot).

Colours are Okabe and Ito's, which people with colour blindness tell apart; series also differ by marker or line style.
Where a page shows them, ink and colours follow its theme (`style.css`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tgsr.report.artefacts import Curve, RunLog
from tgsr.report.tables import Number

if TYPE_CHECKING:  # every run imports this room, few draw: matplotlib takes half a second
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#4D4D4D")
INK, SOFT, FAINT, GRID = "#333333", "#555555", "#777777", "#dddddd"
"""Of text, of axes, of what series are compared with, of the grid."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9.0, "text.color": INK, "axes.titlesize": 10.0,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": SOFT, "ytick.color": SOFT, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 8.0, "lines.linewidth": 1.5, "lines.markersize": 4.0, "axes.unicode_minus": True,
    "svg.fonttype": "none",
}  # fmt: skip
_THEMED = {
    INK: "currentColor", SOFT: f"var(--soft, {SOFT})", FAINT: f"var(--soft, {FAINT})", GRID: f"var(--line, {GRID})",
    **{colour.lower(): f"var(--plot-{i}, {colour})" for i, colour in enumerate(COLOURS)},
}  # fmt: skip
MAX_CURVES = 8
"""More series than this cannot be told apart: they are drawn as a grey band with the mean and the extremes."""

MAX_DRAWN = 2000
"""More points than this are pixels in an SVG."""

F = TypeVar("F", bound=Callable[..., "Figure"])


def _house_style(draw: F) -> F:
    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled  # type: ignore[return-value]


def figure_svg(figure: Figure, name: str = "") -> str:
    """The figure as one `<svg>` element: text stays text, ink and colours are those of the page around it.

    Args:
        name: parts that refer to each other are named after it, so that figures of one page stay apart.

    Returns:
        The same figure gives the same text.
    """
    import matplotlib

    out = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    size = re.search(r'viewBox="[^"]*"', text)
    assert size is not None
    body = text[text.index("<defs>") :].replace("xlink:href", "href")
    # What matplotlib names, nobody refers to; its style for all elements would reach the page around.
    body = re.sub(r"<g id=[^>]*?(/?)>", r"<g\1>", re.sub(r"<style.*?</style>|<!--.*?-->\n?", "", body, flags=re.DOTALL))
    body = re.sub("|".join(_THEMED), lambda found: _THEMED[found[0]], body)
    style = "stroke-linejoin: round; stroke-linecap: butt"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size[0]} style="{style}">\n{body}'


def _figure(width: float = 6.4, height: float = 3.4) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


@_house_style
def curves(
    series: Mapping[str, Curve],
    *,
    title: str = "",
    x_label: str = "iteration",
    y_label: str = "",
    is_log: bool = False,
    reference: Mapping[str, float] | None = None,
) -> Figure:
    """Lines over iterations.

    Args:
        series: name -> (x, y). More than eight become a band from the least to the greatest, their mean, and the two
            series that end lowest and highest.
        is_log: logarithmic y axis; left out where a value is not positive.
        reference: name -> y of a horizontal line, e.g. bicubic.
    """
    figure, axes = _figure()
    shown = series if len(series) <= MAX_CURVES else _band(axes, series)
    for i, (name, (x, y)) in enumerate(shown.items()):
        marker = "o" if len(x) <= 25 else ""
        line = LINES[i // 2 % len(LINES)]
        axes.plot(x, y, label=name, color=COLOURS[i % len(COLOURS)], linestyle=line, marker=marker)
    for i, (name, value) in enumerate((reference or {}).items()):
        axes.axhline(value, color=FAINT, linestyle=LINES[-1 - i % len(LINES)], linewidth=1.2, label=name)
    values = np.concatenate([np.asarray(y, dtype=float) for _, y in series.values()]) if series else np.empty(0)
    if is_log and len(values) and np.nanmin(values) > 0:
        axes.set_yscale("log")
    _label(axes, title, x_label, y_label, num_series=len(shown) + len(reference or {}))
    return figure


def _band(axes: Axes, series: Mapping[str, Curve]) -> dict[str, Curve]:
    grid = np.unique(np.concatenate([np.asarray(x, dtype=float) for x, _ in series.values()]))
    stack = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in series.values() if len(x)])
    has_any = np.isfinite(stack).any(axis=0)
    grid, stack = grid[has_any], stack[:, has_any]
    axes.fill_between(grid, np.nanmin(stack, 0), np.nanmax(stack, 0), color="#bbbbbb", alpha=0.45, linewidth=0,
                      label=f"range of all {len(series)}")  # fmt: skip
    ends = sorted((c[1][-1], name) for name, c in series.items() if len(c[0]))
    low, high = ends[0][1], ends[-1][1]
    return {"mean": (grid.tolist(), np.nanmean(stack, 0).tolist()), low: series[low], high: series[high]}


def plot_losses(log: RunLog) -> Figure | None:
    """Training losses by name; None where none was logged."""
    losses = log.losses()
    return curves(losses, title="Training losses", y_label="loss", is_log=True) if losses else None


def plot_learning_rate(log: RunLog) -> Figure | None:
    """Learning rate; None where it was not logged, or never changes."""
    rate = log.scalar("lr")
    is_told = len(set(rate[1])) > 1
    return curves({"lr": rate}, title="Learning rate", y_label="learning rate") if is_told else None


def plot_discriminator(log: RunLog) -> Figure | None:
    """What the discriminator says of real and of restored images; None for a run without one."""
    scores = {label: log.scalar(name) for name, label in (("d_real", "real"), ("d_fake", "restored"))}
    shown = {label: curve for label, curve in scores.items() if curve[0]}
    return curves(shown, title="Discriminator", y_label="mean output") if shown else None


def plot_gradients(log: RunLog) -> Figure | None:
    """Gradient norms of generator and discriminator; None for a run without a discriminator: they tell who wins."""
    norms = {label: log.scalar(name) for name, label in (("grad_norm", "generator"), ("grad_norm_d", "discriminator"))}
    is_told = len(norms["discriminator"][0]) > 0
    return curves(norms, title="Gradient norms", y_label="norm", is_log=True) if is_told else None


def plot_task_losses(log: RunLog) -> Figure | None:
    """Mean loss of each task's samples; None for a run of one task."""
    tasks = log.task_losses()
    return curves(tasks, title="Loss by task", y_label="loss") if len(tasks) > 1 else None


def plot_metrics(log: RunLog, measured: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Figure]:
    """Metric -> its curves over the validation sets.

    Args:
        measured: data sets of a metrics file, whose baselines become horizontal lines.
    """
    figures = {}
    for metric, sets in log.metrics().items():
        lines = {
            f"{baseline}, {dataset}": value
            for dataset in sets
            for baseline, value in baseline_values([measured or {}], dataset, metric).items()
        }
        title = f"Validation: {metric}"
        figures[metric] = curves(sets, title=title, y_label=metric, reference=lines)
    return figures


def baseline_values(measured: Sequence[Mapping[str, Mapping[str, Any]]], dataset: str, metric: str) -> dict[str, float]:
    """Baseline -> its value on one data set, from the data sets of metrics files; the first that has it counts."""
    found: dict[str, float] = {}
    for datasets in measured:
        for baseline, entries in datasets.get(dataset, {}).get("baselines", {}).items():
            if metric in entries:
                found.setdefault(baseline, float(entries[metric]["mean"]))
    return found


@_house_style
def plot_speed(log: RunLog) -> Figure | None:
    """Images per second and the share of time spent waiting for data; None where they were not logged."""
    speed, share = log.scalar("images_per_s"), log.scalar("data_share")
    if not speed[0]:
        return None
    figure, axes = _figure()
    axes.plot(*speed, color=COLOURS[0], label="images per second")
    _label(axes, "Speed", "iteration", "images per second", num_series=1)
    axes.set_ylim(bottom=0)
    if share[0]:
        right = axes.twinx()
        right.plot(share[0], [100 * s for s in share[1]], color=COLOURS[1], linestyle="--", label="waiting for data")
        right.set_ylabel("waiting for data, % (dashed)")
        right.set_ylim(0, 100)
        right.grid(visible=False)
    return figure


@_house_style
def histogram(
    values: Sequence[float] | np.ndarray,
    *,
    title: str = "",
    x_label: str = "",
    bins: int = 40,
    thresholds: Mapping[str, float] | None = None,
) -> Figure:
    """Counts of finite values, with the median and any thresholds marked.

    Args:
        thresholds: name -> value of a vertical line; the legend says what share of the values lies at or above it.
    """
    array = np.asarray(values, dtype=float)
    array = array[np.isfinite(array)]
    figure, axes = _figure()
    axes.hist(array, bins=bins, color=COLOURS[0], edgecolor="white", linewidth=0.4)
    if len(array):
        axes.axvline(float(np.median(array)), color=INK, linewidth=1.2, label=f"median {np.median(array):.3g}")
    for i, (name, value) in enumerate((thresholds or {}).items(), 1):
        share = float((array >= value).mean()) if len(array) else 0.0
        label = f"{name} = {value:.3g} ({share:.0%} ≥)"
        axes.axvline(value, color=COLOURS[i % len(COLOURS)], linestyle="--", label=label)
    _label(axes, title, x_label, f"count (n = {len(array)})", num_series=2)
    return figure


@_house_style
def heat_map(
    matrix: np.ndarray,
    *,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
    title: str = "",
    value_label: str = "",
    digits: int = 2,
    centre: float | None = None,
    row_axis: str = "",
    column_axis: str = "",
) -> Figure:
    """A matrix as colours, with the numbers written in where they fit (up to 16 x 16).

    Args:
        matrix: (R, C); not finite cells stay grey.
        centre: value drawn white between two hues, for differences; None: one hue from low to high.
    """
    matrix = np.asarray(matrix, dtype=float)
    columns = list(row_labels if column_labels is None else column_labels)
    from matplotlib import colormaps

    if matrix.shape != (len(row_labels), len(columns)):
        raise ValueError(f"matrix {matrix.shape} does not fit {len(row_labels)} row and {len(columns)} column labels")
    rows_n, columns_n = matrix.shape
    figure, axes = _figure(min(10.0, 2.6 + 0.48 * columns_n), min(9.0, 1.9 + 0.4 * rows_n))
    limits: dict[str, Any] = {}
    finite = matrix[np.isfinite(matrix)]
    if centre is not None and len(finite):
        reach = max(float(np.abs(finite - centre).max()), 1e-12)
        limits = {"vmin": centre - reach, "vmax": centre + reach}
    colours = colormaps["cividis" if centre is None else "PuOr_r"].with_extremes(bad="#dddddd")
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap=colours, aspect="auto", interpolation="nearest", **limits)
    axes.grid(visible=False)
    for axis, labels in ((axes.xaxis, columns), (axes.yaxis, row_labels)):
        step = max(1, len(labels) // 40)
        axis.set_ticks(range(0, len(labels), step), [str(labels[i]) for i in range(0, len(labels), step)])
    axes.tick_params(axis="x", rotation=45 if max((len(str(c)) for c in columns), default=0) > 3 else 0, length=0)
    axes.tick_params(axis="y", length=0)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right" if label.get_rotation() else "center")
        label.set_rotation_mode("anchor")
    if max(matrix.shape) <= 16:
        for i, j in np.ndindex(matrix.shape):
            if np.isfinite(matrix[i, j]):
                rgb = np.asarray(image.to_rgba(matrix[i, j]))[:3]
                ink = "white" if rgb @ [0.299, 0.587, 0.114] < 0.5 else "black"
                axes.text(j, i, f"{matrix[i, j]:.{digits}f}", ha="center", va="center", color=ink, fontsize=7)
    figure.colorbar(image, ax=axes, label=value_label, shrink=0.85)
    _label(axes, title, column_axis, row_axis, num_series=0)
    return figure


@_house_style
def weights_over_time(
    iterations: Sequence[float],
    weights: np.ndarray,
    labels: Sequence[str],
    *,
    title: str = "Task weights",
    y_label: str = "probability",
) -> Figure:
    """Task weights `(N, T)` at `(N,)` iterations as steps: a weight holds until the next one.

    Up to eight tasks are lines; more are a heat map of time by task.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(iterations), len(labels)):
        raise ValueError(f"weights {weights.shape} do not fit {len(iterations)} iterations and {len(labels)} labels")
    if len(labels) > MAX_CURVES:
        stamps = [f"{int(i)}" for i in iterations]
        return heat_map(weights.T, row_labels=labels, column_labels=stamps, title=title, value_label=y_label,
                        digits=3, column_axis="iteration")  # fmt: skip
    figure, axes = _figure()
    for i, label in enumerate(labels):
        style = {"color": COLOURS[i], "linestyle": LINES[i // 2 % len(LINES)], "marker": MARKERS[i]}
        axes.plot(iterations, weights[:, i], drawstyle="steps-post", label=label, **style)
    axes.axhline(1 / len(labels), color=FAINT, linestyle=":", linewidth=1.0, label="uniform")
    axes.set_ylim(bottom=0)
    _label(axes, title, "iteration", y_label, num_series=len(labels) + 1)
    return figure


@_house_style
def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[Number | float | None]],
    *,
    title: str = "",
    y_label: str = "",
    is_zero_based: bool = True,
) -> Figure:
    """Bars of several series side by side in each group, with error bars where a number has a spread.

    Args:
        series: name -> one value a group; None leaves a gap. The paper's value of a Number is a black dash.
        is_zero_based: False lets the axis start near the least value, and draws points instead of bars: a bar's
            length means something only from zero.
    """
    figure, axes = _figure(max(4.5, min(10.0, 1.6 + 0.35 * len(groups) * (len(series) + 1))))
    width = 0.8 / max(1, len(series))
    papers: list[tuple[float, float]] = []
    for i, (name, values) in enumerate(series.items()):
        if len(values) != len(groups):
            raise ValueError(f"series '{name}' has {len(values)} values for {len(groups)} groups")
        numbers = [v if isinstance(v, Number) else Number(float("nan") if v is None else float(v)) for v in values]
        x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        y = np.array([n.value for n in numbers])
        spread = np.array([np.nan if n.spread is None else n.spread for n in numbers])
        colour = COLOURS[i % len(COLOURS)]
        if is_zero_based:
            axes.bar(x, y, width * 0.92, color=colour, label=name)
        else:
            axes.plot(x, y, MARKERS[i % len(MARKERS)], color=colour, label=name, markersize=6)
        if np.isfinite(spread).any():
            ink = INK if is_zero_based else colour
            axes.errorbar(x, y, yerr=spread, fmt="none", ecolor=ink, elinewidth=1.0, capsize=2.5)
        papers += [(a, n.paper) for a, n in zip(x, numbers, strict=True) if n.paper is not None]
    if papers:
        places = np.array([a for a, _ in papers])
        axes.hlines([v for _, v in papers], places - width / 2, places + width / 2, color=INK, label="paper")
    is_long = max((len(g) for g in groups), default=0) * len(groups) > 60
    axes.set_xticks(range(len(groups)), groups, rotation=30 if is_long else 0, ha="right" if is_long else "center")
    axes.grid(visible=False, axis="x")
    if is_zero_based:
        axes.axhline(0, color=SOFT, linewidth=0.8)
    _label(axes, title, "", y_label, num_series=len(series) + 1)
    return figure


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Rank correlation (ties get their mean rank); NaN for fewer than three finite pairs or a constant."""
    from scipy.stats import rankdata

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(a) & np.isfinite(b)
    a, b = rankdata(a[keep]), rankdata(b[keep])
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


@_house_style
def scatter(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    *,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    point_labels: Sequence[str] | None = None,
    has_diagonal: bool = False,
) -> Figure:
    """Points with Spearman's rank correlation in the title; up to 30 point labels are written beside them."""
    figure, axes = _figure(4.8, 4.2)
    axes.scatter(x, y, s=22, color=COLOURS[0], alpha=0.75, linewidths=0, rasterized=len(x) > MAX_DRAWN)
    if point_labels is not None and len(point_labels) <= 30:
        for a, b, label in zip(x, y, point_labels, strict=True):
            axes.annotate(label, (a, b), xytext=(4, 3), textcoords="offset points", fontsize=7, color=INK)
    if has_diagonal and len(x):
        low, high = min(np.min(x), np.min(y)), max(np.max(x), np.max(y))
        axes.plot([low, high], [low, high], color=FAINT, linestyle=":", linewidth=1.0)
    rho = spearman(x, y)
    note = f"Spearman ρ = {rho:.2f}, n = {len(x)}" if np.isfinite(rho) else f"n = {len(x)}"
    _label(axes, f"{title}  ({note})" if title else note, x_label, y_label, num_series=0)
    return figure


def _label(axes: Axes, title: str, x_label: str, y_label: str, *, num_series: int) -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if num_series > 4:
        axes.figure.legend(loc="outside right upper")
    elif num_series > 1 and axes.get_legend_handles_labels()[0]:
        axes.legend()
