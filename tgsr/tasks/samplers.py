"""Task samplers: who chooses the task of each training sample. Methods add theirs by one registered class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgsr.tasks.artefacts import read_groups
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.registry import Registry
from tgsr.utils.rng import generator

if TYPE_CHECKING:
    from tgsr.config.schema import Options

TASK_SAMPLERS = Registry("task sampler", package="tgsr.tasks")


@dataclass(frozen=True)
class Feedback:
    """What the engine tells a task sampler and a loss weighting at the end of an interval; equal on all ranks.

    Attributes:
        iteration: number of finished iterations.
        losses: task name -> mean total generator loss of its samples in the interval (absent tasks left out).
        counts: task name -> number of its samples in the interval.
        metrics: task name -> metric name -> value on the task's validation set (empty without `val_tasks`).
    """

    iteration: int
    losses: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class TaskSampler(ABC):
    """Chooses task ids for the global batch of an iteration.

    `draw` is a pure function of the iteration and of the state; the state changes in `update` only, which the engine
    calls after every `interval` iterations, before any batch of the next interval is prepared. So the choice does
    not depend on the number of ranks or workers, and `state_dict` is all that resume needs.

    Attributes:
        tasks: what it chooses from.
        seed: the run's seed.
        interval: iterations between updates; None when it never changes.
        needs_metrics: whether `update` wants `Feedback.metrics`.
    """

    interval: int | None = None
    needs_metrics: bool = False

    def __init__(self, tasks: TaskSet, *, seed: int) -> None:
        self.tasks, self.seed = tasks, seed

    @abstractmethod
    def draw(self, iteration: int, num: int) -> np.ndarray:
        """Task indices `(num,)` int64 of the global batch of `iteration` (counted from 0)."""

    @property
    @abstractmethod
    def weights(self) -> np.ndarray:
        """(T,) current probability of each task, sum 1; for logs and tests."""

    def check(self, options: Options) -> None:  # noqa: B027 - most samplers fit any run
        """Refuse a run that does not go with the files this sampler was made from; called once before training."""

    def update(self, feedback: Feedback) -> None:  # noqa: B027 - most samplers never change
        """Adapt to what the interval showed."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Inverse of `state_dict`."""


@TASK_SAMPLERS.register()
class UniformTaskSampler(TaskSampler):
    """Every task with the same probability, or with fixed `weights`; independent draws.

    Args:
        tasks, seed: see `TaskSampler`.
        weights: task name -> relative weight; tasks not named get 0. None: all equal.
    """

    def __init__(self, tasks: TaskSet, *, seed: int, weights: dict[str, float] | None = None) -> None:
        super().__init__(tasks, seed=seed)
        if weights is None:
            self._weights = np.full(len(tasks), 1 / len(tasks))
        else:
            raw = np.zeros(len(tasks))
            for name, value in weights.items():
                raw[tasks.index(name)] = value
            if not (np.isfinite(raw).all() and (raw >= 0).all() and raw.sum() > 0):
                raise ConfigError("task weights must be finite, not negative, and have a positive sum")
            self._weights = raw / raw.sum()

    @property
    def weights(self) -> np.ndarray:
        return self._weights

    def draw(self, iteration: int, num: int) -> np.ndarray:
        return generator(self.seed, "task", iteration).choice(len(self.tasks), size=num, p=self._weights)


@TASK_SAMPLERS.register()
class GroupedTaskSampler(TaskSampler):
    """A group by its share, then a task of it uniformly (TGSR, section 4.2: group 0 is the whole space).

    Args:
        tasks, seed: see `TaskSampler`; every task must be in at least one group.
        groups: lists of task names, or the path of a `groups.json` whose `groups` are such lists; one that was made of
            other tasks is refused. An empty one has no share.
        shares: probability of each group, sum 1. None: all groups alike, the paper's rule.
        group0_share: instead of `shares`: probability of the first group; the others share the rest alike.
    """

    def __init__(
        self,
        tasks: TaskSet,
        *,
        seed: int,
        groups: list[list[str]] | Path,
        shares: list[float] | None = None,
        group0_share: float | None = None,
    ) -> None:
        super().__init__(tasks, seed=seed)
        names: Sequence[Sequence[str]] = read_groups(groups, tasks) if isinstance(groups, (str, Path)) else groups
        if not any(names):
            raise DataError("all groups are empty", remedy="lower their thresholds")
        if shares is not None and len(shares) == len(names):
            empty = [i for i, (g, share) in enumerate(zip(names, shares, strict=True)) if share > 0 and not g]
            if empty:
                raise DataError(f"group {empty[0]} is empty", remedy="give it no share, or lower its threshold")
            shares = [share for share, g in zip(shares, names, strict=True) if g]
        names = [g for g in names if g]
        self.groups = [np.array([tasks.index(n) for n in g], dtype=np.int64) for g in names]
        if group0_share is not None:
            shares = _first_share(group0_share, len(names), given=shares)
        shares = [1 / len(names)] * len(names) if shares is None else shares
        if len(shares) != len(names) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(
                f"shares {shares} must be {len(names)} numbers >= 0 with sum 1, one for each group",
                remedy="leave them out for equal shares",
            )
        self.shares = np.asarray(shares, dtype=np.float64) / sum(shares)

    @property
    def weights(self) -> np.ndarray:
        total = np.zeros(len(self.tasks))
        for share, group in zip(self.shares, self.groups, strict=True):
            np.add.at(total, group, share / len(group))
        return total

    def draw(self, iteration: int, num: int) -> np.ndarray:
        rng = generator(self.seed, "task", iteration)
        chosen = rng.choice(len(self.groups), size=num, p=self.shares)
        place = rng.random(num)
        return np.array(
            [self.groups[g][int(u * len(self.groups[g]))] for g, u in zip(chosen, place, strict=True)], dtype=np.int64
        )


def _first_share(share: float, num_groups: int, *, given: list[float] | None) -> list[float]:
    """Shares of all groups from that of the first."""
    if given is not None:
        raise ConfigError("shares and group0_share say the same thing", remedy="set only one of them")
    if not 0 <= share <= 1:
        raise ConfigError(f"group0_share is {share}", remedy="use a probability from 0 to 1")
    if num_groups == 1:
        return [1.0]
    return [share, *[(1 - share) / (num_groups - 1)] * (num_groups - 1)]
