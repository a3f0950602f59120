"""The tasks of GRIDS: one per named degradation (section 5.3), all of them or the members of one group."""

from __future__ import annotations

from tgsr.degradations.base import Space
from tgsr.degradations.named import NamedMixSpace
from tgsr.tasks.sets import TASK_SETS
from tgsr.tasks.task import Task, TaskSet
from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import did_you_mean


@TASK_SETS.register("NamedTasks")
def named_tasks(*, space: Space | None, names: list[str] | None = None) -> TaskSet:
    """One task for each degradation of a `NamedMix` space, called like the degradation.

    Args:
        space: the run's space, of type `NamedMix`.
        names: only these, in this order: one name trains a single-task network, several a group.
    """
    if not isinstance(space, NamedMixSpace):
        raise ConfigError("the task set 'NamedTasks' needs the space 'NamedMix'", remedy="give degradation: space")
    members = {m.degradation: m for m in space.members}
    chosen = list(members) if names is None else list(names)
    for name in chosen:
        if name not in members:
            raise ConfigError(f"the space has no degradation '{name}'", remedy=did_you_mean(name, members))
    return TaskSet([Task(n, members[n]) for n in chosen], source={"kind": "named", "space": space.to_json()})
