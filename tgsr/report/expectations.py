"""What a paper states against what was measured: reproduced, differs, or not run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tgsr.report.tables import Column, Number, Row, Table, format_value
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

Kind = Literal["near", "at_least", "at_most"]
REPRODUCED, DIFFERS, NOT_RUN = "reproduced", "differs", "not run"


@dataclass(frozen=True)
class Expectation:
    """One claim.

    Attributes:
        name: what is measured, e.g. `Set14/psnr_y`; the key of the measured values.
        value: the paper's value or bound.
        tolerance: how far off still counts as reproduced, in the value's unit.
        kind: the value itself, or a bound on it.
        source: where the paper says it, e.g. `TGSR, Table 2`.
        digits: decimals in the table.
    """

    name: str
    value: float
    tolerance: float = 0.0
    kind: Kind = "near"
    source: str = ""
    digits: int = 2

    def status(self, measured: Number | None) -> str:
        """One of `reproduced`, `differs`, `not run`."""
        if measured is None or math.isnan(measured.value):
            return NOT_RUN
        above, slack = measured.value - self.value, self.tolerance + 1e-9
        is_met = {"near": abs(above) <= slack, "at_least": above >= -slack, "at_most": above <= slack}[self.kind]
        return REPRODUCED if is_met else DIFFERS

    def text(self) -> str:
        """`28.40 ± 0.10`, `≥ 0.30 (tolerance 0.05)`."""
        value, slack = (format_value(v, self.digits) for v in (self.value, self.tolerance))
        if self.kind == "near":
            return f"{value} ± {slack}" if self.tolerance else value
        bound = "≥" if self.kind == "at_least" else "≤"
        return f"{bound} {value}" + (f" (tolerance {slack})" if self.tolerance else "")


def parse_expectations(data: Mapping[str, Any], *, place: str = "") -> list[Expectation]:
    """An `expect:` mapping, `name: value` or `name: {value, tolerance, kind, source, digits}`.

    Raises:
        ConfigError: an unknown key, a missing value or one that is not a number.
    """
    known = ("value", "tolerance", "kind", "source", "digits")
    found = []
    for name, entry in data.items():
        where = f"{place}: {name}" if place else str(name)
        fields = dict(entry) if isinstance(entry, Mapping) else {"value": entry}
        for key in fields:
            if key not in known:
                raise ConfigError(f"an expectation takes no '{key}'", place=where, remedy=did_you_mean(str(key), known))
        if fields.get("kind", "near") not in ("near", "at_least", "at_most"):
            raise ConfigError(f"kind is '{fields['kind']}'", place=where, remedy="near, at_least or at_most")
        for key in ("value", "tolerance"):
            number = fields.get(key, 0.0 if key == "tolerance" else None)
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise ConfigError(f"{key} is {number!r}, not a number", place=where)
        if not isinstance(fields.get("digits", 2), int):
            raise ConfigError(f"digits is {fields['digits']!r}, not a whole number", place=where)
        found.append(Expectation(str(name), **fields))
    return found


def comparison_table(
    expectations: Sequence[Expectation], measured: Mapping[str, Number | float], *, caption: str = ""
) -> Table:
    """Paper | ours | difference | status | source, one row per claim; claims without a measurement are `not run`."""
    columns = [
        Column("paper", "Paper"), Column("ours", "Ours"), Column("difference", "Difference"),
        Column("status", "Status"), Column("source", "Source"),
    ]  # fmt: skip
    rows = []
    for claim in expectations:
        value = measured.get(claim.name)
        number = Number(float(value)) if isinstance(value, (int, float)) else value
        status = claim.status(number)
        rows.append(
            Row(
                claim.name,
                {
                    "paper": claim.text(),
                    "ours": None if status == NOT_RUN or number is None else number.text(claim.digits),
                    "difference": None
                    if status == NOT_RUN or number is None
                    else format_value(number.value - claim.value, claim.digits, is_signed=True),
                    "status": status,
                    "source": claim.source or None,
                },
            )
        )
    if not any(e.source for e in expectations):
        columns = columns[:-1]
        rows = [Row(r.label, {k: v for k, v in r.cells.items() if k != "source"}) for r in rows]
    return Table(columns, rows, caption=caption, row_head="Quantity")


def summary(table: Table) -> str:
    """`3 of 5 reproduced, 1 differs, 1 not run`."""
    counts = {s: sum(r.cells.get("status") == s for r in table.rows) for s in (REPRODUCED, DIFFERS, NOT_RUN)}
    verb = "differs" if counts[DIFFERS] == 1 else "differ"
    return f"{counts[REPRODUCED]} of {len(table.rows)} reproduced, {counts[DIFFERS]} {verb}, {counts[NOT_RUN]} not run"
