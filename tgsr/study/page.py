"""The page of a study, `results/<study>/index.html`: rewritten after each stage, with the tables as far as they are."""

from __future__ import annotations

import os
from pathlib import Path

from tgsr.config.schema import Options
from tgsr.report.builder import Report
from tgsr.report.tables import Column, Row, Table
from tgsr.study.paper import PaperTable, TableFile
from tgsr.study.plan import Plan
from tgsr.utils.text import clock


def write_study_page(options: Options, plan: Plan) -> Path:
    """States, budgets and times of all stages, links to their reports, and every table that a stage left."""
    results = Path(options.path.results_root)
    report = Report(options.name, subtitle=plan.summary())
    for entry in plan.entries:
        path = results / entry.name / PaperTable.product
        if path.exists():
            table = TableFile.load(path)
            report.section(table.title).add_table(entry.name.replace("/", "_"), table.table())
            if notes := table.notes():
                report.add_text("\n".join(f"- {note}" for note in notes))
    report.section("Stages").add_table("stages", _stage_table(plan))
    links = [e.name for e in plan.entries if (results / e.name / "report" / "index.html").exists()]
    if links:
        base = results / options.name
        lines = [f"- [{name}]({_relative(results / name / 'report' / 'index.html', base)})" for name in links]
        report.section("Reports of the stages").add_text("\n".join(lines))
    return report.write(results / options.name)


def _stage_table(plan: Plan) -> Table:
    columns = [Column("state"), Column("why"), Column("budget"), Column("time"), Column("memory", "peak memory")]
    rows = []
    for entry in plan.entries:
        time = "unknown" if entry.seconds is None else clock(entry.seconds)
        if entry.seconds is not None and not entry.is_measured:
            time = f"about {time}"
        memory = (entry.state.marker.get("cost") or {}).get("peak_memory_gib")
        cells = {
            "state": entry.state.word,
            "why": entry.state.why,
            "budget": entry.budget,
            "time": time,
            "memory": "" if memory is None else f"{memory:.2f} GiB",
        }
        rows.append(Row(entry.name, cells, is_ranked=False))
    return Table(columns, rows, row_head="Stage", caption="")


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()
