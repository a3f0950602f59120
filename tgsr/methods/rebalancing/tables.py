"""Tables 1-5 of the paper, all at once, from finished results."""

from __future__ import annotations

from tgsr.engine.runner import RUNNERS
from tgsr.study.paper import PaperTables


@RUNNERS.register()
class RebalancingTables(PaperTables):
    """Tables 1-5 with measured values beside the printed ones -> a report.

    Args:
        tables: number -> row of the table -> results folders (with `metrics.json`) of its runs. Left out: all tables
            with the paper's values alone.
    """

    paper = "rebalancing"
