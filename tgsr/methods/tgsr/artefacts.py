"""What the stages of TGSR exchange: records of every task (`indicators.jsonl`, `gains.jsonl`) and `groups.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tgsr.config.options import options_hash
from tgsr.config.schema import Options
from tgsr.methods.tgsr.grouping import Grouping, Round
from tgsr.study.artefact import Artefact
from tgsr.study.journal import Record, key_of
from tgsr.tasks.artefacts import GROUPS, check_tasks
from tgsr.tasks.task import WHOLE_SPACE, TaskSet
from tgsr.utils.errors import DataError
from tgsr.utils.files import check_schema, file_digest, read_jsonl

INDICATORS, GAINS = "tgsr.indicators", "tgsr.gains"
MADE_BY = {INDICATORS: "IndicatorSweep", GAINS: "SingleTaskGains"}


def weights_stamp(path: Path | str) -> dict[str, str]:
    """Which weights numbers belong to: the file and a digest of its content, which further training changes."""
    return {"path": str(path), "digest": file_digest(path)}


def result_hash(options: Options) -> str:
    """Hash of all options that can change a stage's numbers; the number of processes is not among them."""
    if options.run is not None:
        kwargs = {k: v for k, v in options.run.kwargs.items() if k != "processes"}
        options = replace(options, run=replace(options.run, kwargs=kwargs))
    return options_hash(options)


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep over tasks, in its own order.

    Attributes:
        header: the first line of the file.
        records: one a task: `task`, `id`, `status` (`ok` or `diverged`), `seconds`, and what was measured.
        place: the file.
    """

    header: Mapping[str, Any]
    records: Sequence[Record]
    place: str = ""

    @property
    def names(self) -> list[str]:
        return [str(key_of(r)) for r in self.records]

    @property
    def ids(self) -> dict[str, str]:
        """Task -> digest of its degradation."""
        return {str(key_of(r)): r["id"] for r in self.records if "id" in r}

    @property
    def weights(self) -> str | None:
        """Digest of the network that was fine-tuned."""
        stamp = self.header["protocol"].get("pretrained")
        return stamp["digest"] if isinstance(stamp, Mapping) else None

    def column(self, name: str) -> np.ndarray:
        """One measured number of all tasks, NaN where there is none (diverged)."""
        values = [r.get(name) for r in self.records]
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def values(self, name: str) -> dict[str, float]:
        """Task -> one measured number, NaN where there is none."""
        return dict(zip(self.names, self.column(name).tolist(), strict=True))

    def metrics(self) -> list[str]:
        """Names of the metrics whose gain was measured."""
        found = dict.fromkeys(k.removeprefix("gain_") for r in self.records for k in r if k.startswith("gain_"))
        return list(found)


def load_sweep(path: Path | str, schema: str, *, tasks: TaskSet | None = None) -> SweepResult:
    """Read a finished sweep.

    Args:
        path: the merged file.
        schema: `INDICATORS` or `GAINS`.
        tasks: the set it must belong to.

    Raises:
        DataError: no such file, another schema, other tasks.
    """
    if not Path(path).exists():
        remedy = f"run (or finish) the sweep that makes it first, run: {{type: {MADE_BY[schema]}}}"
        raise DataError("no such file", place=str(path), remedy=remedy)
    lines = list(read_jsonl(path))
    check_schema(lines[0] if lines else None, schema, path)
    check_tasks(lines[0], tasks, path)
    return SweepResult(lines[0], lines[1:], str(path))


def load_indicators(path: Path | str, *, tasks: TaskSet | None = None) -> SweepResult:
    """Read `indicators.jsonl`; its records have `z`, `se` and `estimates`."""
    return load_sweep(path, INDICATORS, tasks=tasks)


@dataclass(frozen=True, kw_only=True)
class Groups(Artefact):
    """A `groups.json`.

    Attributes:
        tasks: digest of the task set.
        groups: `groups[0]` is `[WHOLE_SPACE]`, `groups[k]` the tasks of threshold k; it may be empty.
        rounds: of Algorithm 1, with each task's PIS.
        rest: selected tasks that no group took.
        selected: the unsatisfactory tasks, worst first.
        kind: `pis`, `pis-once` (no re-training) or `random`.
        about: further facts: validation set, metric, weights.
    """

    schema: ClassVar[str] = GROUPS
    made_by: ClassVar[str] = "GroupTasks"

    tasks: str
    groups: Sequence[Sequence[str]]
    rounds: Sequence[Round] = ()
    rest: Sequence[str] = ()
    selected: Sequence[str] = ()
    kind: str = "pis"
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, grouping: Grouping, tasks: TaskSet, **more: Any) -> Groups:
        """The outcome of Algorithm 1."""
        groups = [[WHOLE_SPACE], *grouping.groups]
        return cls(tasks=tasks.digest, groups=groups, rounds=grouping.rounds, rest=grouping.rest, **more)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "rounds": [asdict(r) for r in self.rounds]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Groups:
        rounds = [Round(r["threshold"], r["pis"], tuple(r["group"])) for r in data["rounds"]]
        return super().from_json({**data, "rounds": rounds})

    @property
    def members(self) -> dict[str, list[str]]:
        """`Group1`, `Group2`, ... -> tasks, without the empty ones: a group keeps the number of its threshold."""
        return {f"Group{k}": list(group) for k, group in enumerate(self.groups[1:], 1) if group}

    @property
    def grouped(self) -> list[str]:
        """All tasks of groups 1, 2, ..."""
        return [name for group in self.groups[1:] for name in group]
