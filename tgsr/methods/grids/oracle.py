"""The oracle of the grouping search: trains a mix model for a group, or remembers it (`oracle.json`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tgsr.methods.grids.search import Group
from tgsr.utils.errors import DataError, UserError
from tgsr.utils.files import read_json, write_json

VERSION = 1


def group_key(names: Sequence[str]) -> str:
    """Key of a group in the memo: its names in alphabetical order."""
    return "+".join(sorted(names))


@dataclass(frozen=True)
class Trained:
    """One training of the oracle.

    Attributes:
        names: degradations of the group, sorted.
        psnr: degradation -> PSNR in dB of the trained model on it; empty when the training failed.
        status: `ok` or `failed`.
        error: why it failed.
        checkpoint: weights of the model.
        seconds: wall time.
        attempt: 1, and one more each time a failed training is tried again.
    """

    names: tuple[str, ...]
    psnr: Mapping[str, float] = field(default_factory=dict)
    status: str = "ok"
    error: str = ""
    checkpoint: str = ""
    seconds: float = 0.0
    attempt: int = 1

    @property
    def rank(self) -> tuple[bool, int]:
        """Of two entries for a group the greater counts: one that succeeded, else the newer."""
        return self.status == "ok", self.attempt


class OracleMemo:
    """All trainings of one configuration, kept in `oracle.json`, each written as soon as it is finished.

    Several processes may train at once: process k > 0 writes `oracle.<k>.json`; all of them are read together.

    Args:
        path: of `oracle.json`.
        config: hash of everything a PSNR depends on: network, budget, data, degradations, seed.
        protocol: the same in words, shown when it does not fit.
        writer: number of this process.

    Raises:
        DataError: the file belongs to another configuration; it is left alone.
    """

    def __init__(
        self, path: Path | str, *, config: str, protocol: Mapping[str, Any] | None = None, writer: int = 0
    ) -> None:
        self.path, self.config, self.protocol, self.writer = Path(path), config, dict(protocol or {}), writer
        self._entries: dict[str, Trained] = {}
        self._own: dict[str, Trained] = {}
        self.reload()

    def _part(self, writer: int) -> Path:
        return self.path if writer == 0 else self.path.with_suffix(f".{writer}.json")

    def reload(self) -> None:
        """Read what this and other processes have finished."""
        for path in [self.path, *sorted(self.path.parent.glob(f"{self.path.stem}.*.json"))]:
            if path.exists():
                found = self._read(path)
                for key, trained in found.items():
                    if key not in self._entries or trained.rank >= self._entries[key].rank:
                        self._entries[key] = trained
                if path == self._part(self.writer):
                    self._own.update(found)

    def _read(self, path: Path) -> dict[str, Trained]:
        data = read_json(path)
        if data.get("schema") != "tgsr.oracle" or data.get("version") != VERSION:
            raise DataError("not an oracle memo of this version", place=str(path), remedy="move it aside")
        if data["config"] != self.config:
            raise DataError(
                f"this memo belongs to another configuration ({self._difference(data.get('protocol', {}))})",
                place=str(path),
                remedy="give the search another name, or restore the options the memo was made with",
            )
        return {
            key: Trained(**{**entry, "names": tuple(entry["names"])}) for key, entry in data["trainings"].items()
        }

    def _difference(self, other: Mapping[str, Any]) -> str:
        for key in dict.fromkeys((*self.protocol, *other)):
            if self.protocol.get(key) != other.get(key):
                return f"{key}: {other.get(key)!r} there, {self.protocol.get(key)!r} here"
        return f"hash {self.config} here"

    def get(self, names: Sequence[str]) -> Trained | None:
        """The training of a group, or None."""
        return self._entries.get(group_key(names))

    def add(self, trained: Trained) -> None:
        """Remember and write a training."""
        key = group_key(trained.names)
        self._entries[key] = self._own[key] = trained
        write_json(
            self._part(self.writer),
            {
                "schema": "tgsr.oracle",
                "version": VERSION,
                "config": self.config,
                "protocol": self.protocol,
                "trainings": {k: asdict(v) for k, v in self._own.items()},
            },
        )

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def trainings(self) -> list[Trained]:
        return list(self._entries.values())


class TrainMany(Protocol):
    """Brings trainings into the memo, several at once where there are several ranks."""

    def __call__(self, groups: Sequence[tuple[str, ...]], *, again: Sequence[tuple[str, ...]] = ()) -> None:
        """Train the groups that the memo lacks, and those of `again` anew. Called by all ranks; rank 0's lists count.

        On return every rank's memo holds what rank 0's holds for these groups.
        """


class TrainingOracle:
    """Equation 4 with real trainings: `max over d in C of P(single, d) - P(mix of C, d)`.

    A failed training counts as an infinite drop, so that the search goes on without its group; the memo says so, and
    `retry_failed` trains it again.

    Args:
        names: degradations in the order of the search's indices.
        memo: where trainings are kept.
        train: brings trainings into the memo.
        num_parallel: trainings that `train` runs at once; more than 1 makes the search train ahead of its questions.
        retry_failed: train groups again whose training failed before.
    """

    def __init__(
        self,
        names: Sequence[str],
        memo: OracleMemo,
        train: TrainMany,
        *,
        num_parallel: int = 1,
        retry_failed: bool = False,
    ) -> None:
        self.names, self.memo, self._train = tuple(names), memo, train
        self.num_parallel = num_parallel
        self._retry = {t.names for t in memo.trainings if t.status != "ok"} if retry_failed else set()

    def train_singles(self) -> dict[str, float]:
        """Single-task models of all degradations first: the upper bounds; degradation -> PSNR.

        Raises:
            UserError: one of them failed, so that no drop can be measured.
        """
        self._ensure([(name,) for name in self.names])
        return {name: self.single(name) for name in self.names}

    def single(self, name: str) -> float:
        trained = self._get((name,))
        if trained.status != "ok":
            raise UserError(
                f"the single-task training of '{name}' failed: {trained.error}",
                place=str(self.memo.path),
                remedy="mend the cause and start again with retry_failed: true; everything else is kept",
            )
        return trained.psnr[name]

    def __call__(self, group: Group) -> float:
        names = self._named(group)
        if len(names) == 1:
            return 0.0
        trained = self._get(names)
        if trained.status != "ok":
            return math.inf
        return max(self.single(n) - trained.psnr[n] for n in names)

    def prepare(self, groups: Sequence[Group]) -> None:
        """Train the likeliest groups at once, one for each of the parallel trainings; nothing when there is one."""
        if self.num_parallel > 1:
            wanted = [n for n in map(self._named, groups) if len(n) > 1 and self._is_missing(n)]
            self._ensure(wanted[: self.num_parallel])

    def _named(self, group: Group) -> tuple[str, ...]:
        return tuple(sorted(self.names[i] for i in group))

    def _is_missing(self, names: tuple[str, ...]) -> bool:
        return self.memo.get(names) is None or names in self._retry

    def _get(self, names: tuple[str, ...]) -> Trained:
        self._ensure([names])
        trained = self.memo.get(names)
        if trained is None:
            raise UserError(f"the training of {group_key(names)} left no result", place=str(self.memo.path))
        return trained

    def _ensure(self, groups: Sequence[tuple[str, ...]]) -> None:
        """Also where nothing is missing, since all ranks must ask as often as rank 0."""
        self._train(groups, again=[g for g in groups if g in self._retry])
        self._retry.difference_update(groups)
