"""Older names of stages that have become generic; option files that use them keep working."""

from __future__ import annotations

from pathlib import Path

from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, OutputPath, PositiveInt
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.study.data_stages import BuildBenchmarks, Group0
from tgsr.study.paper import PaperTable
from tgsr.utils.errors import ConfigError


@RUNNERS.register()
class BuildGroupBenchmarks(BuildBenchmarks):
    """`BuildBenchmarks` of groups by its older name.

    Args:
        tasks: `tasks.json`.
        groups: `groups.json`.
        gt: folder of HR images (DIV2K validation in the paper).
        target: folder of the sets.
        num_pairs: images of each set (100 in the paper).
        group0: see `BuildBenchmarks`.
        seed: of the draws.
        num_workers: processes.
    """

    SMALLEST = {"num_pairs": 2, "num_workers": 1}  # noqa: RUF012 - as the base class

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        tasks: Path,
        groups: Path,
        gt: Path,
        target: OutputPath,
        num_pairs: PositiveInt = 100,
        group0: Group0 | None = None,
        seed: NonNegativeInt = 0,
        num_workers: PositiveInt = 1,
    ) -> None:
        super().__init__(
            options=options, context=context, tasks=tasks, groups=groups, gt=gt, output=target, num_images=num_pairs,
            group0=group0, seed=seed, num_workers=num_workers,
        )  # fmt: skip


@RUNNERS.register()
class CompareOnBenchmarks(PaperTable):
    """`PaperTable` of checkpoints on the sets of the option file, by its older name.

    Args:
        checkpoints: label -> weights.
        table: `TABLE_1` to `TABLE_5` or `TABLE_7`. None: no paper values.
        paper_rows: label -> row of that table. None: rows of the same name.
        save_images: has no effect any more.
    """

    SMALLEST = {}  # noqa: RUF012 - as the base class

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        checkpoints: dict[str, Path],
        table: str | None = None,
        paper_rows: dict[str, str] | None = None,
        save_images: bool = False,
    ) -> None:
        if not checkpoints:
            raise ConfigError("there is no checkpoint to measure", place=f"{options.name}: run.checkpoints")
        names = [(paper_rows or {}).get(label, label) for label in checkpoints]
        if len(set(names)) < len(names):
            problem, remedy = "two checkpoints stand for one row", "use run: {type: PaperTable}, a network for each set"
            raise ConfigError(problem, place=f"{options.name}: run.paper_rows", remedy=remedy)
        super().__init__(
            options=options,
            context=context,
            rows=dict(zip(names, checkpoints.values(), strict=True)),
            paper=None if table is None else f"tgsr/{table.removeprefix('TABLE_')}",
        )
