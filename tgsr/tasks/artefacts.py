"""Files about tasks that stages exchange, checked against the tasks and the space of the run that reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tgsr.degradations.base import Space
from tgsr.tasks.task import TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, file_digest, read_json, to_json

VERSION = 1
GROUPS, STATIC_GROUPS = "tgsr.groups", "tgsr.static_groups"


def json_digest(data: Any) -> str:
    """12 hex digits of a JSON-like value."""
    return hashlib.blake2b(_plain(data).encode(), digest_size=6).hexdigest()


def _plain(data: Any) -> str:
    return to_json(_sorted(data))


def _sorted(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(k): _sorted(data[k]) for k in sorted(data, key=str)}
    if isinstance(data, (list, tuple)):
        return [_sorted(v) for v in data]
    return data


def difference(old: Any, new: Any, path: str = "") -> str:
    """The first place where two JSON values differ, for a message."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            if _plain(old.get(key)) != _plain(new.get(key)):
                return difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"{path or 'all'}: {_short(old)} there, {_short(new)} here"


def _short(value: Any) -> str:
    text = to_json(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_space(tasks: TaskSet, space: Space | None, place: Path | str) -> None:
    """DataError when the tasks were drawn from another space than the run's; passes where one of them is not known."""
    made_from = tasks.source.get("space")
    if space is not None and made_from is not None and _plain(made_from) != _plain(space.to_json()):
        raise DataError(
            f"these tasks were drawn from another space ({difference(made_from, space.to_json())})",
            place=str(place),
            remedy="make the tasks again, or use the degradation section they were made with",
        )


def check_tasks(data: Mapping[str, Any], tasks: TaskSet | None, place: Path | str) -> None:
    """DataError when an artefact was made of other tasks than the run's; passes where one of them is not known.

    Args:
        data: the artefact: `tasks` is the digest of its task set, `ids` the ids of its tasks by name. Either may be
            absent.
        tasks: of the run; may hold more than the artefact was made of, e.g. the whole space.
        place: the file.
    """
    if tasks is None:
        return
    digest, ids = data.get("tasks"), data.get("ids") or {}
    known = {t.name: t.id for t in tasks}
    problem = next((f"its task '{n}' is of another degradation" for n, i in ids.items() if known.get(n, i) != i), "")
    if isinstance(digest, str) and digest not in {tasks.digest, *tasks.origins()}:
        problem = "belongs to other tasks than the run's"
    if problem:
        raise DataError(problem, place=str(place), remedy="make it again of these tasks, or name the tasks it is of")


def check_weights(data: Mapping[str, Any], weights: Path | None, place: Path | str) -> None:
    """DataError when an artefact was made with other weights than these; passes where one of them is not known.

    Args:
        data: the artefact: `weights_digest`, or `weights: {digest}`.
        weights: of the run.
        place: the file.
    """
    named = data.get("weights")
    found = data.get("weights_digest") or (named.get("digest") if isinstance(named, Mapping) else None)
    if weights is not None and isinstance(found, str) and found != file_digest(weights):
        problem = f"belongs to other weights than {weights}"
        raise DataError(problem, place=str(place), remedy="make it again with these weights, or name those it is of")


def load_tasks(path: Path | str, *, space: Space | None = None) -> TaskSet:
    """Tasks of a `tasks.json`.

    Args:
        path: the file.
        space: the space of this run; DataError when the tasks were drawn from another one.
    """
    tasks = TaskSet.load(path)
    check_space(tasks, space, path)
    return tasks


def read_groups(path: Path | str, tasks: TaskSet) -> list[list[str]]:
    """The `groups` of a `groups.json`, lists of task names; DataError when they were made of other tasks.

    Args:
        path: groups of TGSR, which hold the digest of their task set, or static groups, which hold the ids of their
            tasks.
        tasks: what the names are to mean; may hold more than the groups were made of, e.g. the whole space.
    """
    data = read_json(path)
    is_static = isinstance(data, Mapping) and data.get("schema") == STATIC_GROUPS
    check_schema(data, STATIC_GROUPS if is_static else GROUPS, path)
    check_tasks(data, tasks, path)
    return [list(g) for g in data["groups"]]
