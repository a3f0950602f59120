"""Which tasks are unsatisfactory: the second step of Algorithm 1.

The paper contradicts itself. After equation 3, and in the caption of Fig. 6, a high z means that a task is solved;
Algorithm 1 and section 5.1 select tasks with high values. As z = loss after / loss before, a task with much left to
gain has a *low* z, so `low` is the default direction; `high` is Algorithm 1 to the letter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from tgsr.utils.errors import ConfigError, DataError

Direction = Literal["low", "high"]


def select_unsatisfactory(
    indicators: Mapping[str, float],
    *,
    share: float | None = 0.4,
    threshold: float | None = None,
    direction: Direction = "low",
) -> list[str]:
    """Names of the unsatisfactory tasks, worst first; equal values keep the order of `indicators`.

    Args:
        indicators: task name -> average indicator z; NaN (the network diverged on the task) is never selected.
        share: part of the tasks with a finite z to take (0.4 in the paper), rounded, at least one task.
        threshold: instead of a share: every task with z below it (`direction: low`) or above it (`high`).
        direction: `low`: a low z is unsatisfactory (z = loss after / loss before); `high`: Algorithm 1 to the letter.
    """
    if (share is None) == (threshold is None):
        raise ConfigError("give either a share or a threshold of the indicator", remedy="set the other to null")
    finite = {name: z for name, z in indicators.items() if math.isfinite(z)}
    if not finite:
        raise DataError("no task has a finite indicator", remedy="lower the learning rate of the indicator sweep")
    sign = 1.0 if direction == "low" else -1.0
    ordered = sorted(finite, key=lambda name: sign * finite[name])
    if share is not None:
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}", remedy="use a number above 0 and at most 1")
        return ordered[: max(1, round(share * len(ordered)))]
    assert threshold is not None
    chosen = [name for name in ordered if sign * finite[name] < sign * threshold]
    if not chosen:
        worst = finite[ordered[0]]
        raise DataError(
            f"no task passes the indicator threshold {threshold}; the {direction}est z is {worst:.4f}",
            remedy="choose a threshold on the other side of it, or a share",
        )
    return chosen
