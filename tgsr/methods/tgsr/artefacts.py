"""What the stages of TGSR exchange, versioned: `tasks.json`, `indicators.jsonl`, `groups.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tgsr.methods.tgsr.grouping import Grouping, Round
from tgsr.tasks.artefacts import GROUPS, VERSION, check_schema, check_tasks, difference, json_digest
from tgsr.tasks.task import WHOLE_SPACE, TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import append_jsonl, read_json, read_jsonl, to_json, write_atomic, write_json


@dataclass(frozen=True)
class SweepHeader:
    """First line of a sweep's `.jsonl` and of each writer's part of it.

    Attributes:
        schema: `tgsr.indicators` or `tgsr.gains`.
        seed: of the sweep.
        tasks: digest of the task set.
        protocol: all that its numbers depend on, in words and numbers.
        result: what was decided from the numbers (merged file only), e.g. the iterations after which z was taken.
    """

    schema: str
    seed: int
    tasks: str
    protocol: dict[str, Any]
    result: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def options(self) -> str:
        """Hash of the protocol."""
        return json_digest(self.protocol)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "options": self.options}

    def check_same(self, found: Mapping[str, Any], place: Path | str) -> None:
        """DataError unless `found` is the header of the same sweep."""
        check_schema(found, self.schema, place)
        for key in ("tasks", "seed", "options"):
            if found.get(key) != getattr(self, key):
                what = difference(found.get("protocol"), self.protocol) if key == "options" else f"{key} differ"
                raise DataError(
                    f"belongs to another sweep ({what})",
                    place=str(place),
                    remedy="give this sweep another name, or move the old one aside",
                )


Record = dict[str, Any]
"""One task's line: `task` (name), `id`, `status` (`ok` or `diverged`), `seconds`, and what the sweep measured."""


class TaskLog:
    """The growing record of a sweep over tasks: one file per writer, read together, merged at the end.

    Args:
        folder: of the sweep; writer k appends to `<stem>.<k>.jsonl`, the merged file is `<stem>.jsonl`.
        header: of this sweep; files of another sweep are refused. Its schema gives the stem.
    """

    def __init__(self, folder: Path, header: SweepHeader) -> None:
        self.folder, self.header = folder, header
        self.stem = header.schema.removeprefix("tgsr.")

    @property
    def merged(self) -> Path:
        return self.folder / f"{self.stem}.jsonl"

    def part(self, writer: int) -> Path:
        return self.folder / f"{self.stem}.{writer}.jsonl"

    def read(self) -> dict[str, Record]:
        """All finished tasks, by name, from the merged file and every part."""
        done: dict[str, Record] = {}
        for path in [self.merged, *sorted(self.folder.glob(f"{self.stem}.*.jsonl"))]:
            lines = list(read_jsonl(path))
            if lines:
                self.header.check_same(lines[0], path)
                done.update({r["task"]: r for r in lines[1:]})
        return done

    def open(self, writer: int) -> None:
        """Make this writer's file ready to append: header first, a cut last line (a killed run) removed."""
        path = self.part(writer)
        lines = list(read_jsonl(path))
        if lines:
            self.header.check_same(lines[0], path)
        lines[:1] = [self.header.to_json()]
        _write_lines(path, lines)

    def append(self, writer: int, record: Record) -> None:
        """Write one finished task at once."""
        append_jsonl(self.part(writer), record)

    def merge(
        self,
        names: Sequence[str],
        *,
        finish: Callable[[Record], Record] = dict,
        result: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the merged file with one line per name, in that order, then remove the parts.

        Args:
            finish: turns each record into its final form; must accept final ones.
            result: for the header.
        """
        done = self.read()
        missing = [name for name in names if name not in done]
        if missing:
            problem = f"{len(missing)} tasks of the sweep are missing, first '{missing[0]}'"
            raise DataError(problem, place=str(self.folder), remedy="start it again to go on")
        header = {**self.header.to_json(), "result": dict(result or {})}
        _write_lines(self.merged, [header, *(finish(done[name]) for name in names)])
        for path in self.folder.glob(f"{self.stem}.*.jsonl"):
            path.unlink()
        return self.merged


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    text = "".join(to_json(line) + "\n" for line in lines)
    write_atomic(path, lambda f: f.write(text.encode()))


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep, in its own order.

    Attributes:
        header: the first line.
        records: one per task.
    """

    header: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def names(self) -> list[str]:
        return [r["task"] for r in self.records]

    def column(self, name: str) -> np.ndarray:
        """One measured number of all tasks, NaN where there is none (diverged)."""
        return np.array([_number(r.get(name)) for r in self.records], dtype=np.float64)

    def values(self, name: str) -> dict[str, float]:
        """Task -> one measured number, NaN where there is none."""
        return dict(zip(self.names, self.column(name).tolist(), strict=True))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def load_sweep(path: Path | str, schema: str, *, tasks: TaskSet | None = None) -> SweepResult:
    """Read a merged sweep.

    Args:
        schema: `tgsr.indicators` or `tgsr.gains`.
        tasks: the set it must belong to; DataError otherwise.
    """
    if not Path(path).exists():
        raise DataError("no such file", place=str(path), remedy="run (or finish) the sweep that makes it first")
    lines = list(read_jsonl(path))
    check_schema(lines[0] if lines else None, schema, path)
    check_tasks(lines[0], tasks, path)
    return SweepResult(lines[0], lines[1:])


def load_indicators(path: Path | str, *, tasks: TaskSet | None = None) -> SweepResult:
    """Read `indicators.jsonl`; its records have `z`, `se` and `estimates`."""
    return load_sweep(path, "tgsr.indicators", tasks=tasks)


def write_groups(
    path: Path | str,
    grouping: Grouping | Sequence[Sequence[str]],
    *,
    tasks: TaskSet,
    seed: int,
    options: str,
    kind: str = "pis",
    selected: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write `groups.json`: group 0 (the whole space) and the others, each task's PIS in each round.

    Args:
        grouping: outcome of Algorithm 1, or plain lists of names (random groups).
        kind: `pis`, `pis-once` (no re-training) or `random`.
        selected: the unsatisfactory tasks, worst first.
        about: further facts (validation set, metric protocol, checkpoints).
    """
    is_pis = isinstance(grouping, Grouping)
    groups = grouping.groups if is_pis else [list(g) for g in grouping]
    write_json(
        path,
        {
            "schema": GROUPS,
            "version": VERSION,
            "kind": kind,
            "seed": seed,
            "options": options,
            "tasks": tasks.digest,
            "groups": [[WHOLE_SPACE], *groups],
            "rounds": [asdict(r) for r in grouping.rounds] if is_pis else [],
            "rest": list(grouping.rest) if is_pis else [],
            "selected": list(selected),
            "about": dict(about or {}),
        },
    )


@dataclass(frozen=True)
class Groups:
    """A `groups.json`: `groups[0]` is `[WHOLE_SPACE]`, the others are task names."""

    groups: list[list[str]]
    rounds: list[Round]
    rest: list[str]
    selected: list[str]
    kind: str
    about: dict[str, Any]

    @property
    def num_groups(self) -> int:
        """Groups besides group 0."""
        return len(self.groups) - 1

    @property
    def grouped(self) -> list[str]:
        """All tasks of groups 1, 2, ..."""
        return [name for group in self.groups[1:] for name in group]


def load_groups(path: Path | str, *, tasks: TaskSet | None = None) -> Groups:
    """Read `groups.json`; DataError for another version or, with `tasks`, another task set."""
    data = read_json(path)
    check_schema(data, GROUPS, path)
    check_tasks(data, tasks, path)
    return Groups(
        groups=data["groups"],
        rounds=[Round(r["threshold"], r["pis"], tuple(r["group"])) for r in data["rounds"]],
        rest=data["rest"],
        selected=data["selected"],
        kind=data["kind"],
        about=data["about"],
    )
