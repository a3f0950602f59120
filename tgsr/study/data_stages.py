"""Stages that make data: tasks, patches, packed images, and the test sets that tables are measured on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.config.spec import NonNegativeInt, OutputPath, PositiveInt
from tgsr.data.backends import open_source
from tgsr.data.benchmark import build_benchmark
from tgsr.data.packed import pack_images
from tgsr.degradations.base import Space
from tgsr.engine.build import build_tasks
from tgsr.engine.context import Context
from tgsr.engine.runner import RUNNERS
from tgsr.study.stage import Stage
from tgsr.tasks.artefacts import load_tasks, read_groups
from tgsr.tasks.sets import whole_space
from tgsr.tasks.task import WHOLE_SPACE, TaskSet, draw_point_tasks
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.files import read_json
from tgsr.utils.image_io import list_images, read_image, save_image, to_tensor

logger = logging.getLogger("tgsr")
Group0 = Literal["ungrouped", "unselected", "whole"]


def needed_space(options: Options, why: str) -> Space:
    """The run's space; ConfigError when there is none."""
    if options.degradation is None:
        raise ConfigError(why, place=f"{options.name}: degradation", remedy="add it")
    return options.degradation.space.build()


@RUNNERS.register()
class MakeTasks(Stage):
    """Draws point tasks from the space of the option file -> `tasks.json`.

    Args:
        num_tasks: N (4000 in the paper of TGSR). Task i depends on the seed and i alone: a longer set begins with the
            shorter.
        seed: of the draw. None: `manual_seed`.
    """

    product = "tasks.json"
    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_tasks": 8}

    def __init__(
        self, *, options: Options, context: Context, num_tasks: PositiveInt, seed: NonNegativeInt | None = None
    ) -> None:
        super().__init__(options=options, context=context)
        self.space = needed_space(options, "tasks are drawn from a space")
        self.num_tasks, self.seed = num_tasks, options.manual_seed if seed is None else seed

    def units(self) -> tuple[float, str]:
        return self.num_tasks, "tasks"

    def work(self) -> None:
        tasks = draw_point_tasks(self.space, self.num_tasks, seed=self.seed)
        tasks.source["options"] = options_hash(self.options)
        if self.context.is_main:
            tasks.save(self.folder / self.product)
            logger.info("%s: %d tasks", self.folder / self.product, len(tasks))


@RUNNERS.register()
class CutPatches(Stage):
    """Cuts every image of a folder into patches of equal size -> PNG files `<image>_p<k>`.

    A validation set for group 0 needs many draws from the whole space, and each image has one: so many small images
    serve better than few large ones.

    Args:
        source: folder of images.
        target: folder of the patches; files that are there stay. None: the stage's own.
        size: edge of a patch; patches do not overlap, the rest at the right and bottom is left out.
        max_images: use the first so many images only.
    """

    SMALLEST: ClassVar[Mapping[str, Any]] = {"max_images": 2}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        source: Path,
        target: OutputPath | None = None,
        size: PositiveInt = 128,
        max_images: PositiveInt | None = None,
    ) -> None:
        super().__init__(options=options, context=context)
        self.source, self.target, self.size, self.max_images = source, target or self.folder, size, max_images

    def work(self) -> None:
        count = 0
        for path in list_images(self.source)[: self.max_images][self.context.rank :: self.context.world_size]:
            if self.context.stop_requested:
                break
            image = to_tensor(read_image(path))
            height, width = image.shape[1] // self.size, image.shape[2] // self.size
            for k in range(height * width):
                top, left = k // width * self.size, k % width * self.size
                target = self.target / f"{path.stem}_p{k:02d}.png"
                if not target.exists():
                    save_image(target, image[:, top : top + self.size, left : left + self.size])
                count += 1
        self.stop_if_asked()
        logger.info("%s: %d patches of %d px", self.target, count, self.size)


@RUNNERS.register()
class PackImages(Stage):
    """Stores the pixels of a folder of images raw in one file, so that small crops cost no decoding.

    Args:
        source: folder of images.
        output: the packed folder; `io_backend: packed` reads it. None: the stage's own.
    """

    def __init__(
        self, *, options: Options, context: Context, source: Path, output: OutputPath | None = None
    ) -> None:
        super().__init__(options=options, context=context)
        self.source, self.output = source, output or self.folder

    def work(self) -> None:
        if self.context.is_main:
            num_images = pack_images(open_source(self.source), self.output)
            logger.info("%s: %d images", self.output, num_images)


@RUNNERS.register()
class BuildBenchmarks(Stage):
    """Test sets: a folder of images degraded once and for all -> a folder for each set, with `LQ/` and a manifest.

    With `groups`: `Group0`, `Group1`, ...; every image occurs once in each set, the tasks of a group take turns
    (DIV2K5G and the like). Without: a set for each task of the option file, every image by the task (DIV2K4Level).
    And `random`: every image with a draw of its own from the whole space. `PaperTable` reads the folder.

    Args:
        gt: folder of HR images (DIV2K validation in the papers).
        groups: `groups.json`. None: a set for each task.
        tasks: `tasks.json` of the groups.
        output: folder of the sets. None: the stage's own.
        num_images: the first so many images (100 in the papers). None: all.
        group0: tasks of `Group0`, in turn: all that are in no group (`ungrouped`, TGSR's section 5.1), those that the
            indicator did not select (`unselected`), or the `whole` space, drawn anew for every image. None:
            `ungrouped`, and the whole space where every task is in a group.
        random: whether to make `random`.
        seed: of the draws.
        num_workers: processes of each rank.
    """

    SMALLEST: ClassVar[Mapping[str, Any]] = {"num_images": 2, "num_workers": 1}

    def __init__(
        self,
        *,
        options: Options,
        context: Context,
        gt: Path,
        groups: Path | None = None,
        tasks: Path | None = None,
        output: OutputPath | None = None,
        num_images: PositiveInt | None = None,
        group0: Group0 | None = None,
        random: bool = True,
        seed: NonNegativeInt = 0,
        num_workers: PositiveInt = 1,
    ) -> None:
        super().__init__(options=options, context=context)
        self.space = needed_space(options, "test sets are degraded by a space")
        if (groups is None) != (tasks is None):
            there, absent = ("tasks", "groups") if groups is None else ("groups", "tasks")
            raise ConfigError(f"there are {there} but no {absent}", place=f"{options.name}: run.{absent}")
        if group0 is not None and groups is None:
            raise ConfigError("group 0 of no groups", place=f"{options.name}: run.group0", remedy="name the groups")
        self.gt, self.groups, self.path, self.output = gt, groups, tasks, output or self.folder
        self.num_images, self.group0, self.random = num_images, group0, random
        self.seed, self.num_workers = seed, num_workers

    def units(self) -> tuple[float, str]:
        return self.num_images or 100, "images of each set"

    def work(self) -> None:
        sets = self.sets()
        for name in list(sets)[self.context.rank :: self.context.world_size]:
            if self.context.stop_requested:
                break
            tasks, seed = sets[name]
            build_benchmark(
                self.gt, tasks, self.output / name, seed=seed, max_images=self.num_images, num_workers=self.num_workers
            )
        self.stop_if_asked()
        if self.context.is_main:
            logger.info("%s: %s", self.output, ", ".join(sets))

    def sets(self) -> dict[str, tuple[TaskSet, int]]:
        """Name -> tasks and seed."""
        whole = whole_space(space=self.space)
        if self.groups is None:
            found = {task.name: (TaskSet([task]), self.seed) for task in build_tasks(self.options)}
            found.pop(WHOLE_SPACE, None)
        else:
            assert self.path is not None
            tasks = load_tasks(self.path, space=self.space)
            members = [[n for n in group if n != WHOLE_SPACE] for group in read_groups(self.groups, tasks)]
            found = {"Group0": (self._group0(tasks, members) or whole, self.seed)}
            named = {f"Group{k}": group for k, group in enumerate(members[1:], 1)}
            empty = [name for name, group in named.items() if not group]
            if empty:
                logger.warning("%s: no test set for %s, which hold no task", self.options.name, ", ".join(empty))
            found |= {name: (tasks.subset(group), self.seed) for name, group in named.items() if group}
        return {**found, "random": (whole, self.seed + 1)} if self.random else found

    def _group0(self, tasks: TaskSet, members: list[list[str]]) -> TaskSet | None:
        """The tasks of `Group0`; None for the whole space."""
        if self.group0 == "whole":
            return None
        taken = {name for group in members for name in group}
        if self.group0 == "unselected":
            taken = set(read_json(self.groups).get("selected", ())) if self.groups is not None else set()
            if not taken:
                remedy = "use another group0, or the groups.json of a selection"
                raise DataError("it does not say which tasks were selected", place=str(self.groups), remedy=remedy)
        rest = [name for name in tasks.names if name not in taken]
        if not rest and self.group0 is not None:
            word = "selected" if self.group0 == "unselected" else "in a group"
            problem = f"all tasks are {word}, so none are left for group 0"
            raise DataError(problem, place=str(self.groups), remedy="use group0: whole")
        return tasks.subset(rest) if rest else None
