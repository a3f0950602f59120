"""Tables of numbers as values: built once, written as Markdown, CSV and HTML with the same figures and bold."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DIGITS = {"psnr": 2, "ssim": 4, "lpips": 4, "niqe": 2, "dists": 4}
"""Decimals in which the field states a metric; looked up by the first word of its name."""


@dataclass(frozen=True)
class Number:
    """A measured value, with what belongs beside it.

    Attributes:
        value: the value, or the mean over runs.
        spread: sample standard deviation over runs; None for a single run.
        num_runs: how many runs the value is the mean of.
        paper: what the paper states for it.
    """

    value: float
    spread: float | None = None
    num_runs: int = 1
    paper: float | None = None

    def text(self, digits: int, *, is_signed: bool = False) -> str:
        """`28.31 ± 0.02`, without the paper's value."""
        text = format_value(self.value, digits, is_signed=is_signed)
        return text if self.spread is None else f"{text} ± {format_value(self.spread, digits)}"


Cell = Number | str | None


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: unique key; the head of the CSV column.
        label: what people read; the name when empty.
        group: head above neighbouring columns, e.g. the data set.
        higher_is_better: which value is bold; None: none is.
        digits: decimals; None: as the metric's name and the values suggest.
    """

    name: str
    label: str = ""
    group: str = ""
    higher_is_better: bool | None = None
    digits: int | None = None

    @property
    def head(self) -> str:
        """The label with an arrow that says which way is better."""
        arrow = {None: "", True: " ↑", False: " ↓"}[self.higher_is_better]
        return (self.label or self.name) + arrow


@dataclass(frozen=True)
class Row:
    """A row: its label and its cells by column name (missing ones are empty).

    Attributes:
        is_ranked: takes part in the search for the best value; False for references, bounds and differences.
        is_signed: numbers carry their sign; for differences.
    """

    label: str
    cells: Mapping[str, Cell] = field(default_factory=dict)
    is_ranked: bool = True
    is_signed: bool = False


@dataclass(frozen=True)
class Table:
    """Rows by columns, with the protocol of the numbers as the caption."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    row_head: str = "Method"

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns]
        assert len(set(names)) == len(names), f"column names are not unique: {names}"
        for row in self.rows:
            stray = set(row.cells) - set(names)
            assert not stray, f"row '{row.label}' has cells of no column: {stray}"

    def cell(self, row: Row | str, column: str) -> Cell:
        """The cell of a row (or row label) in a column; None when it is empty."""
        if isinstance(row, str):
            row = next(r for r in self.rows if r.label == row)
        return row.cells.get(column)

    def digits(self, column: Column) -> int:
        """Decimals of a column."""
        if column.digits is not None:
            return column.digits
        word = re.match(r"[a-z]*", (column.label or column.name).lower())
        if word and word[0] in DIGITS:
            return DIGITS[word[0]]
        values = [abs(c.value) for r in self.rows if isinstance(c := self.cell(r, column.name), Number)]
        finite = [v for v in values if math.isfinite(v)]
        return 4 if finite and max(finite) < 2 else 2

    def best(self, column: Column) -> frozenset[str]:
        """Labels of the rows whose value, as printed, is the best of the column; none where fewer than two compete."""
        if column.higher_is_better is None:
            return frozenset()
        digits = self.digits(column)
        competing = {
            row.label: _round(cell.value, digits)
            for row in self.rows
            if row.is_ranked and isinstance(cell := self.cell(row, column.name), Number) and not math.isnan(cell.value)
        }
        if len(competing) < 2:
            return frozenset()
        top = (max if column.higher_is_better else min)(competing.values())
        return frozenset(label for label, value in competing.items() if value == top)

    def to_markdown(self) -> str:
        """A pipe table; the caption follows it."""
        head = [f"{c.group} {c.head}".strip() for c in self.columns]
        best = {c.name: self.best(c) for c in self.columns}
        numeric = [any(isinstance(self.cell(r, c.name), Number) for r in self.rows) for c in self.columns]
        lines = [_pipe([self.row_head, *head]), _pipe(["---", *("---:" if n else "---" for n in numeric)])]
        for row in self.rows:
            cells = []
            for column in self.columns:
                text, paper = self._text(row, column)
                text = _escape_pipe(text)
                text = f"**{text}**" if row.label in best[column.name] else text
                cells.append(f"{text} (paper {paper})" if paper else text)
            lines.append(_pipe([_escape_pipe(row.label), *cells]))
        return "\n".join(lines) + "\n" + (f"\n{self.caption}\n" if self.caption else "")

    def to_text(self) -> str:
        """Aligned columns for a terminal; the caption below."""
        heads = [self.row_head, *(f"{c.group} {c.head}".strip() for c in self.columns)]
        rows = [heads] + [[row.label, *(self._text(row, c)[0] for c in self.columns)] for row in self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *([self.caption] if self.caption else [])])

    def to_csv(self) -> str:
        """Full precision; spread, number of runs and the paper's value in columns of their own where there are any."""
        head: list[str] = [self.row_head]
        parts: list[tuple[Column, list[str]]] = []
        for column in self.columns:
            numbers = [c for r in self.rows if isinstance(c := self.cell(r, column.name), Number)]
            extra = ["std", "runs"] if any(n.spread is not None or n.num_runs > 1 for n in numbers) else []
            extra += ["paper"] if any(n.paper is not None for n in numbers) else []
            parts.append((column, extra))
            head += [column.name, *(f"{column.name} {e}" for e in extra)]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        for row in self.rows:
            line: list[object] = [row.label]
            for column, extra in parts:
                cell = self.cell(row, column.name)
                if isinstance(cell, Number):
                    values = {"std": cell.spread, "runs": cell.num_runs, "paper": cell.paper}
                    line += [repr(float(cell.value)), *("" if values[e] is None else values[e] for e in extra)]
                else:
                    line += [cell or "", *([""] * len(extra))]
            writer.writerow(line)
        return out.getvalue()

    def to_html(self) -> str:
        """A `<table>` with scopes for screen readers; `page.py` has its style."""
        best = {c.name: self.best(c) for c in self.columns}
        lines = ["<table>"]
        if self.caption:
            lines.append(f"<caption>{html.escape(self.caption)}</caption>")
        lines += ["<thead>", *self._html_head(), "</thead>", "<tbody>"]
        for row in self.rows:
            cells = [f'<th scope="row">{html.escape(row.label)}</th>']
            for column in self.columns:
                text, paper = self._text(row, column)
                text = html.escape(text)
                text = f"<strong>{text}</strong>" if row.label in best[column.name] else text
                text += f' <span class="paper">paper&nbsp;{html.escape(paper)}</span>' if paper else ""
                kind = ' class="number"' if isinstance(self.cell(row, column.name), Number) else ""
                cells.append(f"<td{kind}>{text}</td>")
            lines.append(f"<tr{'' if row.is_ranked else ' class=unranked'}>{''.join(cells)}</tr>")
        return "\n".join([*lines, "</tbody>", "</table>"])

    def _html_head(self) -> list[str]:
        has_groups = any(c.group for c in self.columns)
        rows = []
        first = f'<th scope="col"{" rowspan=2" if has_groups else ""}>{html.escape(self.row_head)}</th>'
        if has_groups:
            spans: list[tuple[str, int]] = []
            for column in self.columns:
                if spans and spans[-1][0] == column.group:
                    spans[-1] = (column.group, spans[-1][1] + 1)
                else:
                    spans.append((column.group, 1))
            groups = "".join(f'<th scope="colgroup" colspan={n}>{html.escape(g)}</th>' for g, n in spans)
            rows.append(f"<tr>{first}{groups}</tr>")
            first = ""
        heads = "".join(f'<th scope="col">{html.escape(c.head)}</th>' for c in self.columns)
        return [*rows, f"<tr>{first}{heads}</tr>"]

    def _text(self, row: Row, column: Column) -> tuple[str, str]:
        cell, digits = self.cell(row, column.name), self.digits(column)
        if isinstance(cell, Number):
            paper = "" if cell.paper is None else format_value(cell.paper, digits, is_signed=row.is_signed)
            return cell.text(digits, is_signed=row.is_signed), paper
        return ("–" if cell is None else cell), ""


def aggregate(values: Sequence[float], *, paper: float | None = None) -> Number:
    """Mean over runs with the sample standard deviation (n - 1); one run has no spread."""
    if not values:
        raise ValueError("aggregate needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        spread = float(array.std(ddof=1)) if len(array) > 1 else None
    return Number(float(array.mean()), spread, len(array), paper)


def difference_row(label: str, ours: Row, other: Row) -> Row:
    """`ours - other` where both have a number; signed and unranked, without a spread."""
    cells: dict[str, Cell] = {}
    for name, a in ours.cells.items():
        b = other.cells.get(name)
        if isinstance(a, Number) and isinstance(b, Number):
            cells[name] = Number(a.value - b.value)
    return Row(label, cells, is_ranked=False, is_signed=True)


def format_value(value: float, digits: int, *, is_signed: bool = False) -> str:
    """Fixed decimals; `∞` and `n/a` for what is not finite; never `-0.00`."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    rounded = _round(value, digits)
    text = f"{abs(rounded):.{digits}f}"
    sign = "−" if rounded < 0 else "+" if is_signed and rounded > 0 else ""
    return sign + text


def _round(value: float, digits: int) -> float:
    return round(value, digits) + 0.0 if math.isfinite(value) else value


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape_pipe(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
