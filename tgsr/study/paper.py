"""A paper's printed tables with measured values beside them, as stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from tgsr.config.schema import Options
from tgsr.engine.context import Context
from tgsr.engine.runner import Runner
from tgsr.report.artefacts import Metrics, measured, protocol_caption
from tgsr.report.builder import Report
from tgsr.report.tables import Table
from tgsr.study.printed import PrintedTable, printed
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")


def beside_results(table: PrintedTable, runs: Mapping[str, Sequence[Metrics]]) -> Table:
    """A printed table with results folders beside it; data sets and metrics are matched by name.

    Args:
        table: of the paper.
        runs: row -> results of its runs (seeds).

    Raises:
        ConfigError: a row that the table does not have.
    """
    for label in runs:
        if label not in table.rows:
            problem = f"table {table.number} has no row '{label}'"
            raise ConfigError(problem, remedy=did_you_mean(label, table.rows))
    found = {label: measured(group) for label, group in runs.items()}
    kept = {k: {c: n for c, n in v.items() if c in table.columns} for k, v in found.items()}
    return table.beside(kept, caption=protocol_caption([m for group in runs.values() for m in group]))


class PaperTables(Runner):
    """Printed tables with measured values beside them -> a report. A method's stage only names its paper.

    Args:
        tables: number -> row of the table -> results folders (with `metrics.json`) of its runs. Left out: all tables
            with the paper's values alone.
    """

    paper: ClassVar[str]

    def __init__(
        self, *, options: Options, context: Context, tables: dict[str, dict[str, list[Path]]] | None = None
    ) -> None:
        super().__init__(options=options, context=context)
        self.tables = dict(tables or {})
        known = list(printed(self.paper).tables)
        unknown = sorted(set(self.tables) - set(known))
        if unknown:
            place, remedy = f"{options.name}: run.tables", f"{known[0]} to {known[-1]}"
            raise ConfigError(f"there is no table {unknown[0]}", place=place, remedy=remedy)

    def run(self) -> None:
        if self.context.is_main:
            report = Report(self.options.name, subtitle="Measured values with the paper's beside them")
            for number, table in printed(self.paper).tables.items():
                runs = {k: [Metrics.read(p) for p in v] for k, v in self.tables.get(number, {}).items()}
                if runs or not self.tables:
                    report.section(table.title).add_table(f"table_{number}", beside_results(table, runs))
            page = report.write(Path(self.options.path.results_root) / self.options.name / "report")
            logger.info("report: %s", page)
        self.context.barrier()
