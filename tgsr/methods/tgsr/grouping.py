"""Grouping of the unsatisfactory tasks by their performance improvement score (Algorithm 1 and equation 5 of TGSR)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tgsr.utils.errors import ConfigError, DataError
from tgsr.utils.rng import generator

Score = Callable[[int, Sequence[str]], Mapping[str, float]]
"""`score(round, remaining)`: fine-tune the pre-trained network on the remaining tasks, return each one's PIS."""


@dataclass(frozen=True)
class Round:
    """One pass of the loop of Algorithm 1.

    Attributes:
        threshold: t_i in dB.
        pis: task -> s_j of every task that was still there (a row of Table 6).
        group: the tasks with s_j > t_i, best first; may be empty.
    """

    threshold: float
    pis: Mapping[str, float]
    group: tuple[str, ...]


@dataclass(frozen=True)
class Grouping:
    """The outcome of Algorithm 1.

    Attributes:
        rounds: one per threshold that was used.
        rest: selected tasks that no group took.
    """

    rounds: tuple[Round, ...]
    rest: tuple[str, ...]

    @property
    def groups(self) -> list[list[str]]:
        """G_1, G_2, ...: one for each threshold that was used, empty where no task passed it."""
        return [list(r.group) for r in self.rounds]


def performance_improvement_score(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """s_j = I(D_j; theta^) - I(D_j; theta), equation 5, for every task of `after`.

    Args:
        after, before: task -> value of a metric of which more is better (PSNR) on the task's validation set.
    """
    return {name: value - before[name] for name, value in after.items()}


def check_thresholds(thresholds: Sequence[float]) -> None:
    """ConfigError unless there is a threshold and they descend."""
    if not thresholds:
        raise ConfigError("thresholds is empty", remedy="give a PIS in dB for each group, e.g. [0.8, 0.6, 0.4, 0.2]")
    if any(b >= a for a, b in zip(thresholds, thresholds[1:], strict=False)):
        order = sorted(set(thresholds), reverse=True)
        raise ConfigError(f"thresholds {list(thresholds)} must descend", remedy=f"use {order}")


def group_tasks(
    tasks: Sequence[str], *, thresholds: Sequence[float], score: Score, retrain: bool = True, even: bool = False
) -> Grouping:
    """Algorithm 1: in each round, fine-tune on the tasks that are left, take out those whose PIS passes the threshold.

    Args:
        tasks: the unsatisfactory tasks.
        thresholds: t_1 > t_2 > ... in dB.
        score: see `Score`; a NaN score passes no threshold.
        retrain: call `score` in every round whose tasks differ from the last one's; False: once, its scores serve all
            rounds (the ablation of section 7.2.2).
        even: in each round the best tasks in equal parts for the groups to come and the rest, whatever their PIS; of
            `thresholds` the number alone counts.
    """
    check_thresholds(thresholds)
    remaining = list(tasks)
    rounds: list[Round] = []
    scores: Mapping[str, float] = {}
    for index, threshold in enumerate(thresholds):
        if not remaining:
            break
        if index == 0 or (retrain and rounds[-1].group):  # after an empty group the same training would come again
            scores = score(index, tuple(remaining))
        pis = {name: float(scores[name]) for name in remaining}
        ordered = sorted(remaining, key=lambda n: -pis[n] if pis[n] == pis[n] else float("inf"))
        if even:
            size = -(-len(ordered) // (len(thresholds) - index + 1))
            group, threshold = tuple(ordered[:size]), pis[ordered[size - 1]]
        else:
            group = tuple(n for n in ordered if pis[n] > threshold)
        rounds.append(Round(float(threshold), pis, group))
        taken = set(group)
        remaining = [name for name in remaining if name not in taken]
    return Grouping(tuple(rounds), tuple(remaining))


def require_groups(grouping: Grouping) -> None:
    """DataError with the scores that were reached when no threshold was passed by any task."""
    if any(grouping.groups):
        return
    best = sorted((s for r in grouping.rounds[:1] for s in r.pis.values() if s == s), reverse=True)
    reached = ", ".join(f"{s:.2f}" for s in best[:3]) or "none"
    raise DataError(
        f"no task has a PIS above {grouping.rounds[-1].threshold if grouping.rounds else '?'} dB (the best: {reached})",
        remedy="lower the thresholds; the scores are kept, so nothing is trained again",
    )


def random_groups(tasks: Sequence[str], sizes: Sequence[int], *, seed: int) -> list[list[str]]:
    """Disjoint random groups of the given sizes (the control of Fig. 7).

    Args:
        tasks: what to draw from, usually all tasks of the set.
        sizes: of the groups to be compared with.
    """
    if sum(sizes) > len(tasks):
        raise ConfigError(f"random groups of sizes {list(sizes)} need {sum(sizes)} tasks, there are {len(tasks)}")
    order = [tasks[i] for i in generator(seed, "random-groups").permutation(len(tasks))]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    return [order[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def pis_table(rounds: Sequence[Round], tasks: Sequence[str] | None = None) -> list[list[float | None]]:
    """Table 6: one row per round, one column per task, None where the task had been grouped before.

    Args:
        tasks: columns; None: the tasks of the first round in their order.
    """
    columns = list(rounds[0].pis) if tasks is None else list(tasks)
    return [[r.pis.get(name) for name in columns] for r in rounds]
