"""The oracle of the grouping search: what a group loses, from trained networks (equation 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from tgsr.methods.grids.search import Group
from tgsr.methods.grids.trainings import Trained, group_key
from tgsr.utils.errors import UserError


class Networks(Protocol):
    """Networks of groups, trained when they are asked for; see `trainings.GroupTrainer`."""

    num_parallel: int

    @property
    def trainings(self) -> list[Trained]: ...

    def get(self, names: Sequence[str]) -> Trained | None: ...

    def __call__(self, groups: Sequence[Sequence[str]], *, again: Sequence[Sequence[str]] = ()) -> None: ...


class TrainingOracle:
    """Equation 4 with real trainings: `max over d in C of P(single, d) - P(mix of C, d)`.

    A failed training counts as an infinite drop, so that the search goes on without its group; the journal says so,
    and `retry_failed` trains it again.

    Args:
        names: degradations in the order of the search's indices.
        networks: trains them.
        retry_failed: train groups again whose training failed before.
        inputs: degradation -> PSNR of the degraded image: a group with a member that does not end above it counts as
            an infinite drop. None: as in the paper, which does not ask.
    """

    def __init__(
        self,
        names: Sequence[str],
        networks: Networks,
        *,
        retry_failed: bool = False,
        inputs: Mapping[str, float] | None = None,
    ) -> None:
        self.names, self.networks, self.inputs = tuple(names), networks, inputs
        self._retry = {t.names for t in networks.trainings if t.status != "ok"} if retry_failed else set()

    def train_singles(self) -> dict[str, float]:
        """Single-task networks of all degradations first: the upper bounds; degradation -> PSNR.

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
                remedy="mend the cause and start again with retry_failed: true; everything else is kept",
            )
        return trained.psnr[name]

    def __call__(self, group: Group) -> float:
        names = self._named(group)
        if len(names) == 1:
            return 0.0
        trained = self._get(names)
        return math.inf if trained.status != "ok" or self.below_input(names) else self.drop(names)

    def drop(self, names: Sequence[str]) -> float:
        """Equation 4, whatever is acceptable."""
        psnr = self._get(tuple(sorted(names))).psnr
        return max(self.single(n) - psnr[n] for n in names)

    def below_input(self, names: Sequence[str]) -> list[str]:
        """Members that do not end above their input, where that counts."""
        trained = self.networks.get(names)
        if self.inputs is None or trained is None or trained.status != "ok":
            return []
        return [n for n in names if trained.psnr[n] <= self.inputs[n]]

    def prepare(self, groups: Sequence[Group]) -> None:
        """Train the likeliest groups at once, one for each of the parallel trainings; nothing when there is one."""
        if self.networks.num_parallel > 1:
            wanted = [n for n in map(self._named, groups) if len(n) > 1 and self._is_missing(n)]
            self._ensure(wanted[: self.networks.num_parallel])

    def ensure(self, groups: Sequence[Group]) -> None:
        """Train all of these groups."""
        self._ensure([self._named(g) for g in groups])

    def _named(self, group: Group) -> tuple[str, ...]:
        return tuple(sorted(self.names[i] for i in group))

    def _is_missing(self, names: tuple[str, ...]) -> bool:
        return self.networks.get(names) is None or names in self._retry

    def _get(self, names: tuple[str, ...]) -> Trained:
        if self._is_missing(names):
            self._ensure([names])
        trained = self.networks.get(names)
        if trained is None:
            raise UserError(f"the training of {group_key(names)} left no result")
        return trained

    def _ensure(self, groups: Sequence[tuple[str, ...]]) -> None:
        """All ranks ask the same, since they know the same."""
        if groups:
            self.networks(groups, again=[g for g in groups if g in self._retry])
            self._retry.difference_update(groups)
