"""Groups of other tasks as the tasks to balance: each group of TGSR is one task, a mixture of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.config.schema import TaskSetSpec
from tgsr.degradations.base import SPACES, Pipeline, Space, space_from_json
from tgsr.degradations.params import DegradationParams
from tgsr.tasks.artefacts import read_groups
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError, DataError


@SPACES.register("Mixture")
class MixtureSpace(Space):
    """Draws one of several spaces uniformly, then from it; all must share one pipeline.

    Args:
        members: the spaces as JSON, see `Space.to_json`.
    """

    def __init__(self, *, members: list[dict[str, Any]]) -> None:
        if not members:
            raise ConfigError("a mixture needs at least one space")
        self.members = [space_from_json(dict(m)) for m in members]
        pipelines = [m.pipeline.to_json() for m in self.members]
        if any(p != pipelines[0] for p in pipelines):
            raise ConfigError("the spaces of a mixture must share one pipeline")
        self.num_uniforms = 1 + max(m.num_uniforms for m in self.members)

    @property
    def pipeline(self) -> Pipeline:
        return self.members[0].pipeline

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        if uniforms.ndim != 2 or uniforms.shape[1] != self.num_uniforms:
            raise ValueError(f"uniforms must be (B, {self.num_uniforms}), not {uniforms.shape}")
        chosen = (uniforms[:, 0] * len(self.members)).astype(np.int64)
        rows = []
        for which, u in zip(chosen, uniforms[:, 1:], strict=True):
            member = self.members[int(which)]
            rows.append(member.draw(u[None, : member.num_uniforms]))
        return DegradationParams.cat(rows)

    def contains(self, params: DegradationParams) -> np.ndarray:
        inside = np.zeros(params.batch_size, dtype=bool)
        for member in self.members:
            inside |= member.contains(params)
        return inside

    def to_json(self) -> dict[str, Any]:
        return {"type": "Mixture", "members": [m.to_json() for m in self.members]}


@TASK_SETS.register("GroupsAsTasks")
def groups_as_tasks(*, space: Space | None, parent: TaskSetSpec, groups: Path) -> TaskSet:
    """One task for each group of a `groups.json`: a uniform mixture of the group's tasks.

    Args:
        space: the run's space.
        parent: the task set the groups name tasks of, for TGSR the union of the whole space and `tasks.json`.
        groups: `groups.json`.
    """
    tasks = parent.build(space=space)
    named: Mapping[str, Sequence[str]] = {f"group{i}": g for i, g in enumerate(read_groups(groups, tasks))}
    if not named:
        raise DataError("there are no groups in it", place=str(groups))
    made = []
    for name, members in named.items():
        if not members:
            raise DataError(f"{name} is empty", place=str(groups), remedy="drop it or lower its threshold")
        spaces = [tasks[tasks.index(m)].space for m in members]
        mixture = spaces[0] if len(spaces) == 1 else MixtureSpace(members=[s.to_json() for s in spaces])
        made.append(Task(name, mixture))
    return TaskSet(made, source={"kind": "groups as tasks", "groups": str(groups), "parent": tasks.source})
