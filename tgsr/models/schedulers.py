"""Learning rates as functions of the iteration alone, with BasicSR's values: nothing to save, nothing stale on resume.

Iterations count from 0; BasicSR's iteration n (its `last_epoch` n - 1) is our n - 1. Past the end of a schedule the
last value stays.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

from tgsr.utils.errors import ConfigError
from tgsr.utils.registry import Registry

SCHEDULERS = Registry("scheduler")


def warmup_factor(iteration: int, warmup_iter: int) -> float:
    """Factor of a linear warm-up from 0: `(iteration + 1) / warmup_iter` until it reaches 1; 1 without warm-up.

    BasicSR's values. (BasicSR's step schedules then keep the last warm-up value, a share 1 / warmup_iter too low,
    because they multiply whatever the rate was; here the rate is the schedule's own.)
    """
    return min((iteration + 1) / warmup_iter, 1.0) if warmup_iter > 0 else 1.0


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` along half a cosine while `progress` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _require(condition: bool, problem: str, remedy: str) -> None:
    if not condition:
        raise ConfigError(problem, remedy=remedy)


class Scheduler(ABC):
    """A learning rate schedule without state."""

    @abstractmethod
    def lr_at(self, iteration: int, base_lr: float) -> float:
        """The learning rate of the step number `iteration` (from 0) of a group with base rate `base_lr`."""


@SCHEDULERS.register()
class ConstantLR(Scheduler):
    """The base rate throughout."""

    def lr_at(self, iteration: int, base_lr: float) -> float:
        return base_lr


@SCHEDULERS.register(aliases=["MultiStepRestartLR"])
class MultiStepLR(Scheduler):
    """Multiply the rate by `gamma` at each milestone; restarts set it anew.

    Args:
        milestones: iterations from which the rate is `gamma` times lower; a repeated one counts twice.
        gamma: factor at each milestone.
        restarts: iterations at which the rate becomes the base rate times the restart's weight; a milestone at the
            same iteration is passed over.
        restart_weights: one for each restart.
    """

    def __init__(
        self,
        *,
        milestones: Sequence[int],
        gamma: float = 0.1,
        restarts: Sequence[int] = (0,),
        restart_weights: Sequence[float] = (1.0,),
    ) -> None:
        _require(
            len(restarts) == len(restart_weights),
            f"{len(restarts)} restarts but {len(restart_weights)} restart_weights",
            "give one weight for each restart",
        )
        self.milestones, self.gamma = sorted(milestones), gamma
        self.restarts = sorted(zip(restarts, restart_weights, strict=True))

    def lr_at(self, iteration: int, base_lr: float) -> float:
        start, weight = max(((r, w) for r, w in self.restarts if r <= iteration), default=(-1, 1.0))
        passed = sum(start < m <= iteration for m in self.milestones)
        return base_lr * weight * self.gamma**passed


class _Periods:
    """Consecutive periods; where in them an iteration lies."""

    def __init__(self, periods: Sequence[int], name: str, per_period: dict[str, Sequence[float]]) -> None:
        _require(bool(periods) and min(periods) > 0, f"{name} is {list(periods)}", "give at least one positive number")
        for key, values in per_period.items():
            _require(
                len(values) == len(periods),
                f"{len(periods)} {name} but {len(values)} {key}",
                f"give one of {key} for each of {name}",
            )
        self.periods, self.ends = list(periods), list(accumulate(periods))

    def locate(self, iteration: int) -> tuple[int, float]:
        """Index of the period and progress in it, 0 to 1; the end of a period still belongs to it."""
        iteration = min(iteration, self.ends[-1])
        index = next(i for i, end in enumerate(self.ends) if iteration <= end)
        return index, 1 - (self.ends[index] - iteration) / self.periods[index]


@SCHEDULERS.register()
class CosineAnnealingRestartLR(Scheduler):
    """Cosine annealing that starts again after each period.

    Args:
        periods: lengths in iterations.
        restart_weights: factor of the base rate in each period.
        eta_min: rate at the end of a period.
    """

    def __init__(
        self, *, periods: Sequence[int], restart_weights: Sequence[float] = (1.0,), eta_min: float = 0.0
    ) -> None:
        self._periods = _Periods(periods, "periods", {"restart_weights": restart_weights})
        self.restart_weights, self.eta_min = list(restart_weights), eta_min

    def lr_at(self, iteration: int, base_lr: float) -> float:
        index, progress = self._periods.locate(iteration)
        # BasicSR's formula: the weight scales the way above eta_min
        return self.eta_min + self.restart_weights[index] * cosine(base_lr - self.eta_min, 0.0, progress)


@SCHEDULERS.register()
class CosineAnnealingRestartCyclicLR(Scheduler):
    """Cosine annealing with restarts and an own lowest rate in each period (Restormer's schedule).

    Args:
        periods: lengths in iterations.
        restart_weights: factor of the base rate in each period.
        eta_mins: rate at the end of each period.
    """

    def __init__(
        self, *, periods: Sequence[int], restart_weights: Sequence[float] = (1.0,), eta_mins: Sequence[float] = (0.0,)
    ) -> None:
        self._periods = _Periods(periods, "periods", {"restart_weights": restart_weights, "eta_mins": eta_mins})
        self.restart_weights, self.eta_mins = list(restart_weights), list(eta_mins)

    def lr_at(self, iteration: int, base_lr: float) -> float:
        index, progress = self._periods.locate(iteration)
        lowest = self.eta_mins[index]
        return lowest + self.restart_weights[index] * cosine(base_lr - lowest, 0.0, progress)


@SCHEDULERS.register(aliases=["TrueCosineAnnealingLR"])
class CosineAnnealingLR(Scheduler):
    """One half cosine from the base rate to `eta_min`.

    Args:
        T_max: its length in iterations.
        eta_min: last rate.
    """

    def __init__(self, *, T_max: int, eta_min: float = 0.0) -> None:  # noqa: N803, torch's and NAFNet's key
        _require(T_max > 0, f"T_max is {T_max}", "give the number of iterations")
        self.num_iters, self.eta_min = T_max, eta_min

    def lr_at(self, iteration: int, base_lr: float) -> float:
        return cosine(base_lr, self.eta_min, min(iteration / self.num_iters, 1.0))


@SCHEDULERS.register()
class LinearLR(Scheduler):
    """A straight line from the base rate to `end_factor` times it.

    Args:
        total_iter: its length in iterations.
        end_factor: share of the base rate at the end.
    """

    def __init__(self, *, total_iter: int, end_factor: float = 0.0) -> None:
        _require(total_iter > 0, f"total_iter is {total_iter}", "give the number of iterations")
        self.total_iter, self.end_factor = total_iter, end_factor

    def lr_at(self, iteration: int, base_lr: float) -> float:
        return base_lr * (1 - (1 - self.end_factor) * min(iteration / self.total_iter, 1.0))


@SCHEDULERS.register()
class CosineWarmupLR(Scheduler):
    """A linear rise from 0, then one half cosine over the rest.

    The same rise as `train.warmup_iter`, but the cosine starts where it ends; use one of the two.

    Args:
        total_iter: length of both together.
        warmup_iter: length of the rise.
        eta_min: last rate.
    """

    def __init__(self, *, total_iter: int, warmup_iter: int, eta_min: float = 0.0) -> None:
        _require(
            0 <= warmup_iter < total_iter,
            f"warmup_iter is {warmup_iter} of total_iter {total_iter}",
            "the rise must be shorter than the whole",
        )
        self.total_iter, self.warmup_iter, self.eta_min = total_iter, warmup_iter, eta_min

    def lr_at(self, iteration: int, base_lr: float) -> float:
        if iteration + 1 < self.warmup_iter:
            return base_lr * warmup_factor(iteration, self.warmup_iter)
        start = max(self.warmup_iter - 1, 0)
        return cosine(base_lr, self.eta_min, min((iteration - start) / (self.total_iter - start), 1.0))
