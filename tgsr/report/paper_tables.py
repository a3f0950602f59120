"""A paper's printed tables with measured values beside them: one stage, to which each method adds its paper."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.engine.runner import Runner
from tgsr.report.artefacts import Metrics, measured, protocol_caption
from tgsr.report.builder import Report
from tgsr.report.tables import Cell, Column, Number, Row, Table
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")
PrintedTable = Mapping[str, Mapping[str, float]]
"""Row -> `<data set>/<metric>` -> value; a value that is not printed is left out."""
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "lpips": False, "niqe": False, "mos": False}


@dataclass(frozen=True)
class PrintedTables:
    """What a paper prints.

    Attributes:
        tables: number -> table.
        titles: number -> heading.
    """

    tables: Mapping[int, PrintedTable]
    titles: Mapping[int, str]

    def beside(self, number: int, runs: Mapping[str, Sequence[Metrics]]) -> Table:
        """One table: measured values where there are any, the paper's beside them.

        Args:
            number: of the table.
            runs: row -> results of its runs (seeds); data sets and metrics are matched by name.

        Raises:
            ConfigError: a row that the table does not have.
        """
        stated = self.tables[number]
        for label in runs:
            if label not in stated:
                raise ConfigError(f"table {number} has no row '{label}'", remedy=did_you_mean(label, stated))
        names = list(dict.fromkeys(name for values in stated.values() for name in values))
        columns = [Column(n, n.split("/")[1], n.split("/")[0], HIGHER_IS_BETTER[n.split("/")[1]]) for n in names]
        rows = []
        for label, paper in stated.items():
            found = measured(runs.get(label, []))
            cells: dict[str, Cell] = {}
            for name in names:
                ours = found.get(name, Number(float("nan")))
                cells[name] = Number(ours.value, ours.spread, ours.num_runs, paper.get(name))
            rows.append(Row(label, cells))
        caption = protocol_caption([m for group in runs.values() for m in group])
        return Table(columns, rows, caption=f"{caption} n/a: not measured; the paper's value stands beside.".strip())


class PaperTables(Runner):
    """Printed tables with measured values beside them -> a report. A method's stage only names its paper.

    Args:
        tables: number -> row of the table -> results folders (with `metrics.json`) of its runs. Left out: all tables
            with the paper's values alone.
    """

    paper: ClassVar[PrintedTables]

    def __init__(
        self, *, options: Options, context: Context, tables: dict[str, dict[str, list[Path]]] | None = None
    ) -> None:
        super().__init__(options=options, context=context)
        tables = tables or {}
        known = [str(k) for k in self.paper.tables]
        unknown = sorted(set(tables) - set(known))
        if unknown:
            place, remedy = f"{options.name}: run.tables", f"{known[0]} to {known[-1]}"
            raise ConfigError(f"there is no table {unknown[0]}", place=place, remedy=remedy)
        self.tables = {int(k): {label: list(paths) for label, paths in rows.items()} for k, rows in tables.items()}

    def run(self) -> None:
        if self.context.is_main:
            report = Report(self.options.name, subtitle="Measured values with the paper's beside them")
            for number, title in self.paper.titles.items():
                runs = {k: [Metrics.read(p) for p in v] for k, v in self.tables.get(number, {}).items()}
                if runs or not self.tables:
                    report.section(title).add_table(f"table_{number}", self.paper.beside(number, runs))
            page = report.write(Path(self.options.path.results_root) / self.options.name / "report")
            logger.info("report: %s", page)
        self.context.barrier()
