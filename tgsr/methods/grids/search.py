"""Grouping search (GRIDS, 5.1 and Algorithm 1), pure: the performance drop of a group comes from an injected oracle.

The printed algorithm has gaps (a loop over the wrong set, every partition m! times, a bisection that never tries n
groups); what is done instead is said where it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Protocol

import numpy as np

Group = tuple[int, ...]


class Oracle(Protocol):
    """What a grouping costs."""

    def __call__(self, group: Group) -> float:
        """Maximum performance drop of a group in dB (equation 4); infinite when its training failed."""

    def prepare(self, groups: Sequence[Group]) -> None:
        """Groups that may be asked for soon, in order of likelihood: train as many at once as there are ranks."""


class TableOracle:
    """An oracle from a function; counts what a real one would train.

    Args:
        drop: group -> dB.
    """

    def __init__(self, drop: Callable[[Group], float]) -> None:
        self._drop, self.known = drop, {}

    def __call__(self, group: Group) -> float:
        if len(group) == 1:
            return 0.0
        return self.known.setdefault(group, self._drop(group))

    def prepare(self, groups: Sequence[Group]) -> None:
        """Nothing is trained."""


@dataclass(frozen=True)
class Ranked:
    """A candidate group with its place in the order of its size."""

    group: Group
    mean: float
    variance: float


@dataclass
class SearchResult:
    """What the search found and how.

    Attributes:
        partition: the feasible partition with the fewest groups (equation 6) that is taken.
        max_size: L_max of the preprocessing.
        kept: number of candidate groups after the cut-off, of each size that came into question.
        drops: every group asked for, in the order of the first question.
        num_candidates: partitions that were verified.
    """

    partition: list[Group]
    max_size: int
    kept: dict[int, int]
    drops: dict[Group, float] = field(default_factory=dict)
    num_candidates: int = 0
    solutions: list[list[Group]] = field(default_factory=list)


def rank_groups(distance: np.ndarray, *, bucket: float = 0.05) -> dict[int, list[Ranked]]:
    """Lambda_L for every size: all groups, most similar first ("similarity preprocessing").

    Sorted by the mean pair distance in steps of `bucket`, then by variance, then by the mean itself: a comparison
    "close means, use the variance" of pairs would not be transitive.

    Args:
        distance: (n, n) symmetric; small = similar.
        bucket: width within which means count as equal; 0 sorts by the mean alone.
    """
    num = len(distance)
    ranked: dict[int, list[Ranked]] = {}
    for size in range(1, num + 1):
        candidates = []
        for group in combinations(range(num), size):
            block = distance[np.ix_(group, group)]
            pairs = block[np.triu_indices(size, 1)]
            mean, variance = (float(pairs.mean()), float(pairs.var())) if size > 1 else (0.0, 0.0)
            candidates.append(Ranked(group, mean, variance))
        step = bucket if bucket > 0 else 1e-12
        ranked[size] = sorted(candidates, key=lambda r: (math.floor(r.mean / step), r.variance, r.mean, r.group))
    return ranked


def last_true(
    low: int, high: int, holds: Callable[[int], bool], prepare: Callable[[list[int]], None], *, slack: int = 0
) -> int:
    """The last place in `[low, high]` at which a falling predicate holds, given that it holds at `low`.

    Bisects with the upper middle, so it terminates; before each question `prepare` gets the places that this and the
    next questions may ask for, nearest first. With `slack` it may stop that many places short of the last.
    """
    while high - low > slack:
        prepare(_bisection_tree(low, high, depth=3))
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _bisection_tree(low: int, high: int, *, depth: int) -> list[int]:
    level, places = [(low, high)], []
    for _ in range(depth):
        following = []
        for a, b in level:
            if a < b:
                middle = (a + b + 1) // 2
                places.append(middle)
                following += [(middle, b), (a, middle - 1)]
        level = following
    return list(dict.fromkeys(places))


class GroupingSearch:
    """Finds a partition of n degradations into the fewest groups whose drop is at most delta (equation 5).

    Attributes:
        mean_distance: group -> mean pair distance, of every group.

    Args:
        distance: (n, n) similarity matrix S as a distance.
        oracle: drop of a group; asked lazily, should remember its answers.
        delta: largest accepted drop in dB.
        bucket: see `rank_groups`.
        top_k: when L_max is sought, how many of the best groups of a size may be tried; the paper's rule is 1, and one
            unlucky failure at size 2 then ends in all singles.
        max_size: no group may be larger; None: no limit. A limit spares the trainings of large groups.
        resolution: cut-offs are sought to this share of the groups of a size; 0 is exact, as in the paper.
        find_all: collect every feasible partition with the fewest groups among the candidates, not only the first.
        least_drop: of those take the one whose largest drop is least (then the least sum), which does not depend on the
            order of the degradations; the paper takes the first.
    """

    def __init__(
        self,
        distance: np.ndarray,
        oracle: Oracle,
        *,
        delta: float,
        bucket: float = 0.05,
        top_k: int = 1,
        max_size: int | None = None,
        resolution: float = 0.0,
        find_all: bool = False,
        least_drop: bool = False,
    ) -> None:
        self.num = len(distance)
        self.size_limit, self.resolution = min(max_size or self.num, self.num), resolution
        self.oracle, self.delta, self.top_k = oracle, delta, top_k
        self.find_all, self.least_drop = find_all or least_drop, least_drop
        self.ranked = rank_groups(np.asarray(distance), bucket=bucket)
        self.mean_distance = {r.group: r.mean for groups in self.ranked.values() for r in groups}
        self.drops: dict[Group, float] = {}
        self.kept: dict[int, list[Group]] = {}
        self._failed: set[Group] = set()
        self._num_candidates = 0

    def run(self) -> SearchResult:
        """Preprocessing, then partitions into 1, 2, ... groups until one is feasible.

        The paper bisects over the number of groups; whether a partition into *exactly* m exists is not monotone in m,
        and a scan upwards asks the oracle for no more. All singles are feasible, so there is always an answer.
        """
        self.max_size = self._largest_size()
        solutions: list[list[Group]] = []
        for num_groups in range(math.ceil(self.num / self.max_size), self.num + 1):
            for partition in self._partitions(num_groups):
                if self._feasible(partition):
                    solutions.append(partition)
                    if not self.find_all:
                        break
            if solutions:
                break
        best = min(solutions, key=self._cost) if self.least_drop else solutions[0]
        return SearchResult(
            partition=best,
            max_size=self.max_size,
            kept={size: len(groups) for size, groups in sorted(self.kept.items())},
            drops=self.drops,
            num_candidates=self._num_candidates,
            solutions=solutions,
        )

    def _cost(self, partition: Sequence[Group]) -> tuple[float, float, float]:
        """Largest drop, sum of the drops, sum of the distances."""
        drops = [self.drops.get(g, 0.0) for g in partition]
        return max(drops), sum(sorted(drops)), sum(sorted(self.mean_distance[g] for g in partition))

    def drop(self, group: Group) -> float:
        """The oracle's answer, noted."""
        value = 0.0 if len(group) == 1 else float(self.oracle(group))
        self.drops.setdefault(group, value)
        if not value <= self.delta:
            self._failed.add(group)
        return value

    def _passes(self, group: Group) -> bool:
        return self.drop(group) <= self.delta

    def _largest_size(self) -> int:
        """L_max: the largest size whose best-ranked group passes, by bisection over the size."""

        def best(size: int) -> list[Group]:
            return [r.group for r in self.ranked[size][: self.top_k]]

        return last_true(
            1,
            self.size_limit,
            lambda size: any(self._passes(g) for g in best(size)),
            lambda sizes: self.oracle.prepare([g for s in sizes for g in best(s)]),
        )

    def _cut(self, size: int) -> list[Group]:
        """The groups of a size up to the last that passes, taken as monotone in their rank; none may pass.

        A group that is known to pass is kept with all before it, wherever a coarse or unlucky bisection ended.
        """
        groups = [r.group for r in self.ranked[size]]
        if size == 1:
            return groups
        last = last_true(
            -1,
            len(groups) - 1,
            lambda place: self._passes(groups[place]),
            lambda places: self.oracle.prepare([groups[p] for p in places]),
            slack=int(self.resolution * len(groups)),
        )
        passing = [place for place, group in enumerate(groups) if self.drops.get(group, math.inf) <= self.delta]
        return groups[: max([last, *passing]) + 1]

    def _holding(self, size: int, member: int) -> list[Group]:
        """Kept groups of a size that hold a degradation, in rank order.

        The cut-off of a size is sought when the first partition could use it, which spares trainings.
        """
        if size not in self.kept:
            self.kept[size] = self._cut(size)
        return [g for g in self.kept[size] if member in g]

    def _partitions(self, num_groups: int) -> Iterator[list[Group]]:
        """Exact covers by at most `num_groups` kept groups, large groups first, depth first.

        The next group must hold the first uncovered degradation, so every partition comes once. Groups too small to
        leave a coverable rest are not looked at.
        """

        def extend(covered: frozenset[int], chosen: list[Group]) -> Iterator[list[Group]]:
            left, places = self.num - len(covered), num_groups - len(chosen)
            if not left:
                yield list(chosen)
                return
            first = next(d for d in range(self.num) if d not in covered)
            smallest = max(1, left - (places - 1) * self.max_size)
            for size in range(min(self.max_size, left), smallest - 1, -1) if places else ():
                for group in self._holding(size, first):
                    if group not in self._failed and covered.isdisjoint(group):
                        yield from extend(covered | set(group), [*chosen, group])
                        if not self._failed.isdisjoint(chosen):
                            return  # a chosen group failed meanwhile: nothing below it can be feasible

        yield from extend(frozenset(), [])

    def _feasible(self, partition: list[Group]) -> bool:
        """Verify every group, least similar first, since it fails most likely; stops at the first failure."""
        self._num_candidates += 1
        doubtful = sorted((g for g in partition if len(g) > 1), key=lambda g: -self.mean_distance[g])
        self.oracle.prepare(doubtful)
        return all(self._passes(g) for g in doubtful)


def random_partition(sizes: Sequence[int], rng: np.random.Generator) -> list[Group]:
    """A random partition with the given group sizes: the control of the grouping."""
    order = rng.permutation(sum(sizes)).tolist()
    groups, start = [], 0
    for size in sizes:
        groups.append(tuple(sorted(order[start : start + size])))
        start += size
    return groups
