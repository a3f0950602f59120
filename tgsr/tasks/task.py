"""Task: a named distribution over degradation parameters. TaskSet: an ordered, versioned collection of tasks."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.degradations.base import SPACES, Pipeline, PointSpace, Space, space_from_json
from tgsr.degradations.params import DegradationParams
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, read_json, to_json, undamaged, write_json
from tgsr.utils.rng import generator

SCHEMA_VERSION = 1
WHOLE_SPACE = "whole_space"
"""Name of the task that is the whole space."""


@dataclass(frozen=True)
class Task:
    """A named distribution over degradation parameters (design, section 1).

    Attributes:
        name: unique in its set; shown in logs and tables.
        space: what it draws from: the whole second-order space, a box of it, one point of it, one named degradation.
    """

    name: str
    space: Space

    @cached_property
    def id(self) -> str:
        """12 hex digits that depend on the parameters alone, not on the name or the order."""
        text = json.dumps(self.space.to_json(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def draw(self, seed: int, stream: str, *keys: int | str) -> DegradationParams:
        """Parameters of one sample from the stream `(seed, stream, *keys)`; one row."""
        return self.space.draw(generator(seed, stream, *keys).random((1, self.space.num_uniforms)))

    def draw_fixed(self, image_name: str) -> DegradationParams:
        """The parameters with which this task degrades one image of a validation set or benchmark, always the same."""
        return self.draw(0, "task-validation", self.id, image_name)


class TaskSet(Sequence[Task]):
    """Tasks in a fixed order; a task's index in it is the task id that travels with every sample.

    Args:
        tasks: at least one; names must differ.
        source: how the set was made (seed, parent space, option hash), kept in the file. For the tasks of a file and
            what is made of them, `digest` is that of the whole file.
    """

    def __init__(self, tasks: Sequence[Task], *, source: dict[str, Any] | None = None) -> None:
        if not tasks:
            raise DataError("a task set needs at least one task", remedy="ask for num_tasks >= 1")
        names = [t.name for t in tasks]
        twice = sorted(n for n, count in Counter(names).items() if count > 1)
        if twice:
            raise DataError(f"task names occur twice: {', '.join(twice[:5])}")
        self._tasks = tuple(tasks)
        self.source = dict(source or {})
        self._index = {t.name: i for i, t in enumerate(self._tasks)}

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, index: int) -> Task:  # type: ignore[override]
        return self._tasks[index]

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    @property
    def names(self) -> list[str]:
        return [t.name for t in self._tasks]

    def index(self, name: str) -> int:  # type: ignore[override]
        """Index of the task called `name`."""
        try:
            return self._index[name]
        except KeyError:
            raise DataError(f"there is no task '{name}' among {len(self)} tasks") from None

    def subset(self, names: Sequence[str]) -> TaskSet:
        """The named tasks, in the given order."""
        return TaskSet([self[self.index(n)] for n in names], source=self.source)

    @cached_property
    def digest(self) -> str:
        """12 hex digits that depend on the names and parameters of all tasks."""
        return _digest(self)

    def origins(self) -> set[str]:
        """Digests of the task sets that these tasks come from: of their files and of sets that were united.

        A set whose source tells nothing comes from itself, with and without the whole space.
        """
        known = _digests(self.source)
        own = [t for t in self if t.name != WHOLE_SPACE]
        return known or {self.digest, _digest(own)}

    @property
    def scale(self) -> int:
        """The scale that all pipelines share."""
        scales = {t.space.pipeline.scale for t in self}
        if len(scales) != 1:
            raise DataError(f"tasks of one set must share one scale, found {sorted(scales)}")
        return scales.pop()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "tgsr.tasks",
            "version": SCHEMA_VERSION,
            "source": self.source,
            "tasks": [{"name": t.name, "id": t.id, "space": t.space.to_json()} for t in self],
        }

    @staticmethod
    def from_json(data: dict[str, Any], *, place: str = "") -> TaskSet:
        """Inverse of `to_json`; DataError for another schema or version, or when a task id does not match its text."""
        check_schema(data, "tgsr.tasks", place, version=SCHEMA_VERSION)
        tasks = []
        for entry in data["tasks"]:
            task = Task(entry["name"], space_from_json(entry["space"]))
            if task.id != entry["id"]:
                raise DataError(f"task '{task.name}' has id {task.id} but the file says {entry['id']}", place=place)
            tasks.append(task)
        return TaskSet(tasks, source=data["source"])

    def save(self, path: Path | str) -> None:
        write_json(path, self.to_json())

    @staticmethod
    def load(path: Path | str) -> TaskSet:
        data = read_json(path)
        with undamaged(path):
            return TaskSet.from_json(data, place=str(path))


def _digest(tasks: Iterable[Task]) -> str:
    text = to_json([[t.name, t.id] for t in tasks])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _digests(source: Mapping[str, Any]) -> set[str]:
    if "digest" in source:
        return {source["digest"]}
    return {d for part in source.get("parts", ()) for d in _digests(part)}


@SPACES.register("RealPairs")
class RealPairs(Space):
    """The data set's own pairs of LQ and GT: nothing is drawn and nothing applied (Cria-CL on real data)."""

    num_uniforms = 0

    @property
    def pipeline(self) -> Pipeline:
        raise DataError("real pairs have no degradation to apply", remedy="use a set with LQ and GT, or a degradation")

    def draw(self, uniforms: np.ndarray) -> DegradationParams:
        return DegradationParams({"noise_seed": np.zeros(len(uniforms), dtype=np.int64)})

    def contains(self, params: DegradationParams) -> np.ndarray:
        return np.ones(params.batch_size, dtype=bool)

    def to_json(self) -> dict[str, Any]:
        return {"type": "RealPairs"}


def draw_point_tasks(space: Space, num_tasks: int, *, seed: int) -> TaskSet:
    """`num_tasks` points of `space`, each with every parameter fixed (TGSR, section 3.1).

    Task `i` depends on `(seed, i)` alone, so a longer set begins with the shorter one.
    """
    pipeline = space.pipeline.to_json()
    width = max(4, len(str(num_tasks - 1)))
    tasks = [
        Task(
            f"task_{i:0{width}d}",
            PointSpace(
                pipeline=pipeline,
                params=space.draw(generator(seed, "point-task", i).random((1, space.num_uniforms))).row(0),
            ),
        )
        for i in range(num_tasks)
    ]
    return TaskSet(tasks, source={"kind": "points", "seed": seed, "space": space.to_json()})
