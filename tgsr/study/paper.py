"""A paper's printed tables with measured values beside them, as stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from tgsr.config.options import missing_files, place_of
from tgsr.config.schema import Options, TaskOptions
from tgsr.config.spec import PositiveInt
from tgsr.engine.build import build_tasks
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.engine.smallest import with_arguments
from tgsr.report.artefacts import Metrics
from tgsr.report.builder import Report
from tgsr.report.tables import Row, Table
from tgsr.study.artefact import Artefact, stamp
from tgsr.study.measure import Condition, Subject, measure, usable_metrics
from tgsr.study.measurements import Measurements
from tgsr.study.printed import PrintedTable, find_table
from tgsr.study.rows import BICUBIC, Rows, Sets, check_seeds, expand, subjects_of, with_sets
from tgsr.study.stage import Stage
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean

logger = logging.getLogger("tgsr")
NUM_IMAGES = 100
"""Of a test set, as most are in the papers; for the plan."""


@dataclass(frozen=True, kw_only=True)
class TableFile(Artefact):
    """A `table.json`: what was measured for a table, and what was not and why.

    Attributes:
        title: of the table.
        paper: the printed table that stands beside, `NAME/NUMBER`; None: none.
        measurements: of all rows.
        not_measured: runs whose files were not there.
        left_out: metric -> why it could not be computed.
        gain_over: row that the gains at the foot are over; None: no such rows.
    """

    schema: ClassVar[str] = "tgsr.paper_table"
    made_by: ClassVar[str] = "PaperTable"

    title: str
    paper: str | None
    measurements: Measurements
    not_measured: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    gain_over: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "measurements": self.measurements.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TableFile:
        return super().from_json({**data, "measurements": Measurements.from_json(data["measurements"])})

    @property
    def printed(self) -> PrintedTable | None:
        """The paper's table."""
        return None if self.paper is None else find_table(self.paper)

    def table(self) -> Table:
        """Rows in the paper's order, then those that only we have, then gains; the paper's values beside ours."""
        ours, paper = self.measurements, self.printed
        if paper is None:
            table = ours.table()
        else:
            table = paper.beside({name: ours.numbers(name) for name in ours.names}, caption=ours.caption())
        return Table(table.columns, [*table.rows, *self._gains()], caption=table.caption, row_head=table.row_head)

    def _gains(self) -> list[Row]:
        has_base = self.gain_over in self.measurements.names
        return self.measurements.gain(self.gain_over) if self.gain_over is not None and has_base else []

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        notes = list(self.printed.notes) if self.printed is not None else []
        notes += [f"{metric} is left out: {why}" for metric, why in self.left_out.items()]
        if self.not_measured:
            notes.append(f"Not measured, since the files are not there: {', '.join(self.not_measured)}.")
        return notes

    def page(self, title: str) -> Report:
        """The table, and what is to be said beside it."""
        report = Report(title, subtitle=self.title)
        report.section(self.title).add_table("table", self.table())
        if notes := self.notes():
            report.add_text("\n".join(f"- {note}" for note in notes))
        return report


@RUNNERS.register()
class PaperTable(Stage):
    """A table: rows measured on test sets, a paper's printed values beside them -> `table.json` and a report.

    What is measured is kept in `measured.jsonl` by the content of the weights: a stopped table goes on, and another row
    costs its own numbers only. A row whose files are not there yet is said on the page. A metric whose weights cannot
    be had (LPIPS without network) is left out.

    Args:
        rows: label -> weights; or `bicubic`; or a results folder; or a folder of images restored elsewhere; or
            `{weights, network, images, results}`; or a list of several runs, or seed -> run: their mean and spread are
            shown. `NAME#SEED` is one of several runs of NAME, too. A mapping of names of sets or tasks to weights, or
            an artefact that names the networks of groups or tasks: each is measured with its own.
        paper: `NAME/NUMBER` of the printed table, e.g. `tgsr/1`; rows and sets are matched by name. None: none.
        sets: names of sets under `datasets.val`, or folders of benchmarks: one, a list, or name -> one (a folder of
            several: the name follows that of each set). Sets of `datasets.val` that the printed table has are measured
            beside them. None: all of `datasets.val`.
        gain_over: row whose differences to the others, seed by seed, are added.
        by_task: measure every task of the run on every set. None: where the printed table does.
        num_images: use the first so many images of each set only.
        processes: per rank; None: one per core on a CPU, one on a GPU.
    """

    in_results = True
    product = "table.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_images": 2, "processes": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        rows: Rows,
        paper: str | None = None,
        sets: Sets | None = None,
        gain_over: str | None = None,
        by_task: bool | None = None,
        num_images: PositiveInt | None = None,
        processes: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.place = f"{options.name}: run.rows"
        check_seeds(rows, self.place)
        self.printed = None if paper is None else find_table(paper)
        columns = self.printed.columns if self.printed is not None else []
        self.runs = expand(rows, self.place, {*options.datasets.val, *(p for c in columns for p in c.split("/")[:-1])})
        self.paper, self.sets, self.gain_over = paper, sets, gain_over
        self.num_images, self.processes = num_images, processes
        in_print = self.printed is not None and any(c.count("/") == 2 for c in self.printed.columns)
        self.by_task = in_print if by_task is None else by_task
        labels = list(dict.fromkeys(label.split("#")[0] for label in self.runs))
        if gain_over is not None and gain_over not in labels:
            problem, remedy = f"there is no row '{gain_over}'", did_you_mean(gain_over, labels)
            raise ConfigError(problem, place=f"{options.name}: run.gain_over", remedy=remedy)
        if not labels and self.printed is None:
            raise ConfigError("there is nothing to measure", place=self.place)

    def units(self) -> tuple[float, str]:
        """Images to be restored, where every set has a hundred."""
        columns = self.printed.columns if self.printed is not None else self.options.datasets.val
        num_sets = len({column.rpartition("/")[0] for column in columns})
        return max(1, len(self.runs)) * max(1, num_sets) * (self.num_images or NUM_IMAGES), "images"

    def optional_files(self) -> list[tuple[str, Path]]:
        """Of rows that stand with the paper's values alone until their files are there."""
        found = []
        for label, run in self.runs.items():
            weights = run.weights.values() if isinstance(run.weights, Mapping) else [run.weights]
            paths = [run.images, run.results, *weights]
            found += [(f"row '{label}'", path) for path in paths if path is not None and not Path(path).exists()]
        return found

    def work(self) -> None:
        subjects, results, missing = self._rows()
        if missing and self.context.is_main:
            logger.warning("%s: not measured, since the files are not there: %s", self.options.name, ", ".join(missing))
        parts = [Measurements.from_results(label, Metrics.read(path)) for label, path in results.items()]
        left_out: dict[str, str] = {}
        if subjects:
            ours, left_out = self._measure(subjects)
            parts.insert(0, ours)
        found = parts[0].joined(*parts[1:]) if parts else Measurements(records=[])
        if self.context.is_main:
            title = self.printed.title if self.printed is not None else self.options.name
            TableFile(
                title=title, paper=self.paper, measurements=found, not_measured=missing, left_out=left_out,
                gain_over=self.gain_over, **stamp(self.options),
            ).save(self.results / self.product)  # fmt: skip

    def _measure(self, subjects: Sequence[Subject]) -> tuple[Measurements, dict[str, str]]:
        metrics, left_out = usable_metrics(self.options, self.context)
        for name, why in left_out.items():
            logger.warning("metric '%s' is left out: %s", name, why)
        options, conditions = self._conditions()
        found = measure(
            subjects, conditions, metrics, self.results / "measured.jsonl", options, self.context,
            num_images=self.num_images, processes=self.processes,
        )  # fmt: skip
        return found, left_out

    def _rows(self) -> tuple[list[Subject], dict[str, Path], list[str]]:
        """Subjects, results folders by label, and labels without files; as rank 0 sees the disk, on all ranks."""
        found: tuple[list[Subject], dict[str, Path], list[str]] = ([], {}, [])
        if self.context.is_main:
            for label, run in self.runs.items():
                if run.results is not None:
                    is_there = (run.results / "metrics.json").is_file() or run.results.is_file()
                    found[1].update({label: run.results} if is_there else {})
                    found[2].extend([] if is_there else [label])
                else:
                    subjects = subjects_of(label, run)
                    found[0].extend(subjects or [])
                    found[2].extend([] if subjects else [label])
        return self.context.from_main(found)

    def _conditions(self) -> tuple[Options, list[Condition]]:
        wanted = [c.split("/")[0] for c in self.printed.columns] if self.printed is not None else []
        options, names = with_sets(self.options, self.sets, wanted)
        if not self.by_task:
            return options, [Condition(name) for name in names]
        tasks = list(build_tasks(self.options))
        in_print = {c.split("/")[1] for c in self.printed.columns if c.count("/") == 2} if self.printed else set()
        if in_print:
            tasks = [t for t in tasks if t.name in in_print]
        if not tasks:
            remedy = f"tasks.set must make some of: {', '.join(sorted(in_print))}"
            raise ConfigError("no task of the run is in the table", place=f"{options.name}: tasks.set", remedy=remedy)
        return options, [Condition(name, task) for name in names for task in tasks]

    def page(self) -> Report:
        return TableFile.load(self.results / self.product).page(self.options.name)

    def used_options(self) -> Options:
        """Test sets and rows."""
        assert self.options.run is not None
        rows = {label: row for label, row in self.options.run.kwargs["rows"].items() if str(row) != BICUBIC}
        run = with_arguments(self.options.run, {"rows": rows})
        return replace(used_by_sets(self.options, self.sets, uses_tasks=self.by_task)[1], run=run)

    def missing_files(self, made: Sequence[Path] = (), later: Sequence[Path] = ()) -> list[ConfigError]:
        """Test sets only: a row whose files are not there is said on the page."""
        return set_problems(self.options, self.sets, made, later, uses_tasks=self.by_task)


def set_problems(
    options: Options, sets: Sets | None, made: Sequence[Path], later: Sequence[Path], *, uses_tasks: bool = False
) -> list[ConfigError]:
    """What is missing of the test sets of a stage that says on its page which rows are; see `Runner.missing_files`.

    Args:
        options: of the stage.
        sets: see `PaperTable`.
        made, later: as of `Runner.missing_files`.
        uses_tasks: whether the tasks of the options degrade the sets.
    """
    paths, used = used_by_sets(options, sets, uses_tasks=uses_tasks)
    problems = missing_files(used, made=made, later=later)
    for path in paths:
        if str(path) not in options.datasets.val and not path.exists() and not _is_below(path, made):
            place = f"{place_of(options, 'run.sets')} = {path}"
            problems.append(ConfigError("no such set or folder", place=place, remedy="correct the path"))
    return problems


def used_by_sets(options: Options, sets: Sets | None, *, uses_tasks: bool) -> tuple[list[Path], Options]:
    """Names and folders of the sets, and the options without what such a stage does not look at; see `set_problems`."""
    val = options.datasets.val
    paths = list(sets.values()) if isinstance(sets, Mapping) else [sets] if isinstance(sets, Path) else sets or []
    named = [str(p) for p in paths] if sets is not None else list(val)
    return list(paths), replace(
        options,
        run=None,
        train=None,
        network_d=None,
        tasks=options.tasks if uses_tasks else TaskOptions(),
        path=replace(options.path, pretrain_network_g=None, pretrain_network_d=None, resume_state=None),
        datasets=replace(options.datasets, train=None, val={k: v for k, v in val.items() if k in named}),
    )


def _is_below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.resolve().is_relative_to(root.resolve()) for root in roots)
