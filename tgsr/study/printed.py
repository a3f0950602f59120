"""What a paper prints: the tables, notes and stated values of its `printed.yml`, to stand beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import tgsr
from tgsr.config.yaml_loader import PlacedDict, load_yaml, to_builtin
from tgsr.report.tables import Cell, Column, Number, Row, Table
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import did_you_mean

FILE = "printed.yml"
ROOMS = Path(tgsr.__file__).parent / "methods"
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "niqe": False, "mos": False, "dists": False}
Numbers = Mapping[str, Number]
"""Column -> measured value."""


def column(name: str) -> Column:
    """The column of `<set>/<metric>`, `<set>/<task>/<metric>` or a name without a stroke."""
    *groups, label = name.split("/")
    return Column(name, label, " ".join(groups), HIGHER_IS_BETTER.get(label))


@dataclass(frozen=True)
class PrintedTable:
    """One table of a paper.

    Attributes:
        number: as the file names it, e.g. `2b`.
        title: its heading.
        columns: `<set>/<metric>`, `<set>/<task>/<metric>`, or names of the table's own.
        rows: row -> column -> value; a value that is not printed is left out.
        notes: what is to be said beside it, e.g. contradictions in print.
        row_head: what its rows are.
    """

    number: str
    title: str
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, float]]
    notes: Sequence[str] = ()
    row_head: str = "Method"

    def beside(self, found: Mapping[str, Numbers], *, caption: str = "") -> Table:
        """The table with measured values where there are any, the paper's beside them.

        Args:
            found: row -> column -> value. Rows and columns that the paper does not have follow its own.
            caption: protocol of the measured values.
        """
        more = dict.fromkeys(name for values in found.values() for name in values)
        names = list(dict.fromkeys([*self.columns, *more]))
        rows = []
        for label in dict.fromkeys([*self.rows, *found]):
            stated, ours = self.rows.get(label, {}), found.get(label, {})
            cells: dict[str, Cell] = {}
            for name in names:
                number = ours.get(name, Number(float("nan")))
                if name in ours or name in stated:
                    cells[name] = Number(number.value, number.spread, number.num_runs, stated.get(name))
            rows.append(Row(label, cells))
        text = f"{caption} n/a: not measured; the paper's value stands beside.".strip()
        return Table([column(n) for n in names], rows, caption=text, row_head=self.row_head)


@dataclass(frozen=True)
class Printed:
    """What a paper prints.

    Attributes:
        name: of its room.
        title: of the paper.
        tables: number -> table.
        stated: values that its text or figures state, as the file has them.
    """

    name: str
    title: str
    tables: Mapping[str, PrintedTable]
    stated: Mapping[str, Any] = field(default_factory=dict)

    def table(self, number: str | int) -> PrintedTable:
        """ConfigError when there is no such table."""
        if str(number) not in self.tables:
            remedy = f"there are {', '.join(self.tables)}"
            raise ConfigError(f"'{self.name}' prints no table {number}", remedy=remedy)
        return self.tables[str(number)]


@cache
def printed(name: str) -> Printed:
    """The printed values of a paper.

    Args:
        name: of its room in `tgsr/methods/`, or a `printed.yml` or its folder elsewhere.

    Raises:
        ConfigError: there is no such paper.
        DataError: the file is wrong.
    """
    for file in (ROOMS / name / FILE, Path(name) / FILE, Path(name)):
        if file.is_file():
            return _read(file, name)
    known = sorted(p.parent.name for p in ROOMS.glob(f"*/{FILE}"))
    raise ConfigError(f"there are no printed values of a paper '{name}'", remedy=did_you_mean(name, known))


def find_table(paper: str) -> PrintedTable:
    """The table of `NAME/NUMBER`, e.g. `tgsr/1`; ConfigError when there is none."""
    name, _, number = paper.rpartition("/")
    if not name:
        raise ConfigError(f"'{paper}' names no table", remedy="give NAME/NUMBER, e.g. tgsr/1")
    return printed(name).table(number)


def _read(file: Path, name: str) -> Printed:
    data = load_yaml(file)
    tables = data.get("tables", {})
    if not isinstance(tables, PlacedDict) or not all(isinstance(t, PlacedDict) for t in tables.values()):
        raise DataError("'tables' is no mapping of tables", place=str(file))
    found = {number: _table(number, entry) for number, entry in tables.items()}
    return Printed(name, str(data.get("title", name)), found, to_builtin(data.get("stated") or {}))


def _table(number: str, entry: PlacedDict) -> PrintedTable:
    parts = [[str(n) for n in entry[k]] for k in ("sets", "tasks", "metrics") if k in entry]
    columns = [str(c) for c in entry["columns"]] if "columns" in entry else ["/".join(c) for c in product(*parts)]
    rows = {}
    for label, values in entry.get("rows", PlacedDict()).items():
        if not isinstance(values, list) or len(values) != len(columns):
            how_many = len(values) if isinstance(values, list) else "no list of"
            place = f"{entry['rows'].place_of(label)}: tables.{number}.rows.{label}"
            raise DataError(f"{how_many} values for {len(columns)} columns", place=place)
        rows[label] = {c: float(v) for c, v in zip(columns, values, strict=True) if v is not None}
    notes = tuple(str(n) for n in entry.get("notes", ()))
    return PrintedTable(number, str(entry["title"]), columns, rows, notes, str(entry.get("row_head", "Method")))
