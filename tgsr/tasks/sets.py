"""The registered ways to make a task set: `tasks: {set: {type: ...}}` of an option file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgsr.config.schema import SpaceSpec, TaskSetSpec
from tgsr.config.spec import Spec
from tgsr.degradations.base import Space
from tgsr.tasks.artefacts import check_space
from tgsr.tasks.task import WHOLE_SPACE, Task, TaskSet, draw_point_tasks
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import Registry

TASK_SETS = Registry("task set", package="tgsr.tasks")


def _needed(space: Space | None, kind: str) -> Space:
    if space is None:
        remedy = "add the section degradation: {space: {type: ...}}"
        raise ConfigError(f"task set '{kind}' needs a space", remedy=remedy)
    return space


@TASK_SETS.register("WholeSpace")
def whole_space(*, space: Space | None, name: str = WHOLE_SPACE) -> TaskSet:
    """One task: the whole space of the run (Real-ESRGAN; group 0 of TGSR).

    Args:
        space: the run's space.
        name: the task's name.
    """
    space = _needed(space, "WholeSpace")
    return TaskSet([Task(name, space)], source={"kind": "whole space", "space": space.to_json()})


@TASK_SETS.register("Points")
def points(*, space: Space | None, num_tasks: int = 4000, seed: int = 0) -> TaskSet:
    """Points of the space, every parameter fixed (TGSR, section 3.1).

    Args:
        space: the run's space.
        num_tasks: how many; task `i` does not depend on it.
        seed: of the draw, apart from the run's seed, so that runs can share their tasks.
    """
    if num_tasks < 1:
        raise ConfigError(f"num_tasks is {num_tasks}", remedy="ask for at least 1")
    return draw_point_tasks(_needed(space, "Points"), num_tasks, seed=seed)


@TASK_SETS.register("File")
def from_file(*, space: Space | None, path: Path, names: list[str] | None = None) -> TaskSet:
    """Tasks of a `tasks.json`, checked against the run's pipeline and, where the file tells it, the run's space.

    Args:
        space: the run's space; None skips the checks.
        path: the file.
        names: keep these tasks only, in this order.
    """
    tasks = TaskSet.load(path)
    tasks.source["digest"] = tasks.digest
    if names is not None:
        tasks = tasks.subset(names)
    if space is not None:
        ours = space.pipeline.to_json()
        for task in tasks:
            theirs = task.space.pipeline.to_json()
            if theirs != ours:
                raise DataError(
                    f"task '{task.name}' degrades with {theirs} but this run with {ours}",
                    place=str(path),
                    remedy="use the tasks with the space and scale they were made for",
                )
        check_space(tasks, space, path)
    return tasks


@TASK_SETS.register("Boxes")
def boxes(*, space: Space | None, boxes: dict[str, dict[str, list[float]]]) -> TaskSet:
    """Parts of the space, each with some of its ranges narrowed (Controlled Data Rebalancing, section 3.2).

    Args:
        space: the run's space.
        boxes: task name -> range name -> `[low, high]`; ranges not named stay the space's.
    """
    space = _needed(space, "Boxes")
    restrict = getattr(space, "restrict", None)
    if restrict is None:
        raise ConfigError(f"a space of type {space.to_json()['type']} cannot be cut into boxes")
    if not boxes:
        raise ConfigError("task set 'Boxes' needs at least one box")
    tasks = []
    for name, ranges in boxes.items():
        try:
            tasks.append(Task(name, restrict(**{k: tuple(v) for k, v in ranges.items()})))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"box '{name}': {error}") from None
    return TaskSet(tasks, source={"kind": "boxes", "space": space.to_json(), "boxes": boxes})


@TASK_SETS.register("Spaces")
def spaces(*, space: Space | None = None, spaces: dict[str, SpaceSpec]) -> TaskSet:
    """One task for each of several spaces, e.g. the named degradations of GRIDS.

    Args:
        space: the run's space; not used.
        spaces: task name -> space.
    """
    tasks = [Task(name, _build(spec)) for name, spec in spaces.items()]
    return TaskSet(tasks, source={"kind": "spaces"})


@TASK_SETS.register("Union")
def union(*, space: Space | None, sets: list[TaskSetSpec]) -> TaskSet:
    """The tasks of several sets one after the other, e.g. the whole space and the tasks of a file (TGSR, section 3.2).

    Args:
        space: the run's space.
        sets: task sets; all names must differ.
    """
    parts = [_build(spec, space=space) for spec in sets]
    sources = [p.source if "parts" in p.source else {"digest": p.digest, **p.source} for p in parts]
    return TaskSet([t for part in parts for t in part], source={"kind": "union", "parts": sources})


def _build(spec: Any, **runtime: Any) -> Any:
    """What a Spec describes; things that are built already stay."""
    return spec.build(**runtime) if isinstance(spec, Spec) else spec


def build_task_set(spec: Spec | None, space: Space | None) -> TaskSet | None:
    """The run's task set: what `spec` says, else one task of the whole space; None for paired data without a space."""
    if spec is not None:
        return spec.build(space=space)
    return None if space is None else whole_space(space=space)
