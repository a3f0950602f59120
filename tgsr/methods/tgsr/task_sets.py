"""Task sets of TGSR: one of the groups alone (Table 3, "SG"), and neighbourhoods of point tasks (Fig. 8)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.degradations.base import SPACES, Pipeline, PointSpace, Space, noise_seed, space_from_json
from tgsr.degradations.params import DegradationParams
from tgsr.methods.tgsr.artefacts import Groups
from tgsr.tasks.artefacts import load_tasks
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.rng import generator

_NUM_PROBES = 4096


@TASK_SETS.register("TaskGroup")
def task_group(*, space: Space | None, path: Path, groups: Path, group: int) -> TaskSet:
    """The tasks of one group of a `groups.json`, to fine-tune on it alone (the `SG` rows of Table 3).

    Args:
        space: the run's space.
        path: `tasks.json`.
        groups: `groups.json`.
        group: 1, 2, ...; 0 would be the whole space.
    """
    tasks = load_tasks(path, space=space)
    found = Groups.load(groups, tasks=tasks).members
    if f"Group{group}" not in found:
        raise ConfigError(f"there is no group {group} in {groups}", remedy=f"it has {', '.join(found)}")
    return tasks.subset(found[f"Group{group}"])


@TASK_SETS.register("Neighbourhoods")
def neighbourhoods(*, space: Space | None, path: Path, radius: float = 0.05, names: list[str] | None = None) -> TaskSet:
    """Every point task of a file widened to a small range of similar degradations (Fig. 8).

    Args:
        space: the run's space, which bounds the ranges.
        path: `tasks.json` of point tasks.
        radius: half the width of each range, as a part of the parameter's whole range.
        names: keep these tasks only, in this order.
    """
    if space is None:
        raise ConfigError("task set 'Neighbourhoods' needs a space", remedy="add the section degradation")
    tasks = load_tasks(path, space=space)
    chosen = tasks if names is None else tasks.subset(names)
    wide = [Task(t.name, neighbourhood(t, space, radius=radius)) for t in chosen]
    source = {"kind": "neighbourhoods", "radius": radius, "space": space.to_json(), "digest": tasks.digest}
    return TaskSet(wide, source=source)


def neighbourhood(task: Task, space: Space, *, radius: float) -> Neighbourhood:
    """The range of degradations around a point task."""
    if not isinstance(task.space, PointSpace):
        raise DataError(f"task '{task.name}' is not a point of the space, it has no neighbourhood")
    return Neighbourhood(parent=space.to_json(), params=task.space.params, radius=radius)


@SPACES.register("Neighbourhood")
class Neighbourhood(Space):
    """All degradations whose real-valued parameters are near those of a point; kinds, modes and sizes are the point's.

    The paper says "a small range of similar degradation parameters" and no more. Here each real-valued parameter is
    uniform within `radius` times its range in the parent space, cut at the ends of that range. Where a range
    depends on a kind (the factor of an up- or down-sampling), it is the one under the point's kind.

    Args:
        parent: the whole space, as JSON.
        params: the point.
        radius: half the width of each range, as a part of the parameter's range in the parent.
    """

    def __init__(self, *, parent: dict[str, Any], params: dict[str, Any], radius: float) -> None:
        if not 0 < radius <= 1:
            raise ConfigError(f"radius is {radius}", remedy="use a number above 0 and at most 1, e.g. 0.05")
        self._parent_json, self.radius = dict(parent), radius
        self.parent = space_from_json(parent)
        self.params = {k: v for k, v in params.items() if k != "noise_seed"}
        self.num_uniforms = len(self.intervals) + 1

    @property
    def pipeline(self) -> Pipeline:
        return self.parent.pipeline

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Real-valued parameter -> low and high."""
        probes = self.parent.draw(generator(0, "neighbourhood").random((_NUM_PROBES, self.parent.num_uniforms)))
        found = {}
        for name, value in self.params.items():
            if isinstance(value, int) or value != value:
                continue
            column = probes[name]
            kind = name.rsplit("_", 1)[0] + "_kind"
            if kind in self.params and kind in probes:
                column = column[probes[kind] == self.params[kind]]
            column = column[np.isfinite(column)]
            low, high = (column.min(), column.max()) if len(column) else (value, value)
            reach = self.radius * (high - low)
            found[name] = (max(value - reach, min(low, value)), min(value + reach, max(high, value)))
        return found

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        rows = DegradationParams.from_rows([self.params] * len(uniforms))
        columns = {
            name: low + (high - low) * uniforms[:, k] for k, (name, (low, high)) in enumerate(self.intervals.items())
        }
        return rows.replace(**columns, noise_seed=noise_seed(uniforms[:, -1]))

    def contains(self, params: DegradationParams) -> np.ndarray:
        inside = np.ones(params.batch_size, dtype=bool)
        for name, value in self.params.items():
            column = params.get(name)
            if column is None:
                continue
            low, high = self.intervals.get(name, (value, value))
            inside &= (column >= low) & (column <= high) | ((column != column) & (value != value))
        return inside

    def to_json(self) -> dict[str, Any]:
        params = {k: v for k, v in self.params.items() if v == v}
        return {"type": "Neighbourhood", "parent": self._parent_json, "params": params, "radius": self.radius}
